//! Explains why a process cannot be opened.

use std::io;

/// Why [`crate::Process::open`] failed, with the command that helps.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such process (any more).
    #[error("no such process: pid {pid}; it may have exited (see: ps -e)")]
    NoSuchProcess {
        /// The id that was asked for.
        pid: i32,
    },
    /// The id is that of a thread, not of its process.
    #[error("{tid} is a thread of process {pid}; fix: -p {pid}")]
    NotALeader {
        /// The id that was asked for.
        tid: i32,
        /// The process that it belongs to.
        pid: i32,
    },
    /// The process has exited, and its parent has not waited for it yet.
    #[error(
        "process {pid} ({comm}) is a zombie: it has exited and waits for its parent; nothing is left to profile"
    )]
    Zombie {
        /// The process.
        pid: i32,
        /// Its name.
        comm: Box<str>,
    },
    /// The process is part of the kernel and has no user space.
    #[error(
        "{pid} ({comm}) is a kernel thread, which has no user space; to profile the kernel: perf record -a -g"
    )]
    KernelThread {
        /// The thread.
        pid: i32,
        /// Its name.
        comm: Box<str>,
    },
    /// We lack the capabilities to access it.
    #[error(
        "not permitted to access process {pid} ({comm}, uid {uid}), which requires CAP_SYS_PTRACE and \
         CAP_PERFMON; fix: run exoprof with sudo, or {}",
        host::rights::setcap()
    )]
    Permission {
        /// The process.
        pid: i32,
        /// Its name; empty where even that is hidden (`hidepid`).
        comm: Box<str>,
        /// Its effective user id; `u32::MAX` where hidden.
        uid: u32,
    },
    /// Anything else that `/proc` or the kernel reported.
    #[error("cannot {what} of process {pid}: {error}")]
    System {
        /// The process.
        pid: i32,
        /// What was tried, as in "cannot read the state of process 7".
        what: &'static str,
        /// The system's error.
        #[source]
        error: io::Error,
    },
}

//! Defines why threads cannot be stopped.

use std::io;

use host::rights::Obstacle;

/// Why threads could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum SeizeError {
    /// The process, or the only thread asked for, has ended.
    #[error("process {pid} has exited")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// Another tracer is attached, and a process can have only one.
    #[error(
        "process {pid} is already traced by process {by} ({comm}) and can have only one tracer; fix: end process {by} and retry"
    )]
    Traced {
        /// The process.
        pid: i32,
        /// The tracer (its thread).
        by: i32,
        /// Its name.
        comm: String,
    },
    /// We lack a permission.
    #[error("not permitted to stop process {pid}: {obstacle}")]
    NotPermitted {
        /// The process.
        pid: i32,
        /// What stands in the way.
        obstacle: Obstacle,
    },
    /// The kernel refuses although our capabilities suffice.
    #[error(
        "a seccomp filter or security module blocks ptrace of process {pid} ({source}); fix: run \
         exoprof outside of the container, or the container with --cap-add SYS_PTRACE"
    )]
    Blocked {
        /// The process.
        pid: i32,
        /// The system's answer.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("cannot {what} of process {pid}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

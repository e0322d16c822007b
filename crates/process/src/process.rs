//! Opens a process so that a reused PID cannot be taken for it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::Status;

use crate::procdir::{ProcDir, ThreadFile};
use crate::stat::{Stat, container_id};
use crate::{OpenError, ProcessMemory};

/// Name, program, user and container of a process when they were read. An exec changes most of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name of the leading thread (at most 15 bytes, cut by the kernel).
    pub comm: String,
    /// The arguments; empty where the process wiped them.
    pub cmdline: Vec<OsString>,
    /// The executable's path as the process sees it, without ` (deleted)`; `None` where unreadable.
    pub exe: Option<OsString>,
    /// The executable was unlinked or replaced since it was started.
    pub exe_deleted: bool,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Its PIDs from our namespace down to its own; one where these are the same.
    pub ns_pids: Vec<i32>,
    /// The container's id, 64 hex digits; `None` outside of containers.
    pub container: Option<String>,
}

/// Identifies the program that a process executes, cheaply: if the addresses of two differ, an exec
/// came between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// The name of the leading thread, which an exec sets, and the program itself may.
    pub comm: String,
    /// Addresses where its code and its stack begin, which each exec randomizes. Both are 0 during an
    /// exec, and for an exiting thread.
    pub at: (u64, u64),
}

/// A live process. See [`Process::open`].
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    pub(crate) dir: ProcDir,
    start_time: u64,
    identity: Identity,
}

impl AsFd for Process {
    /// The pidfd: readable (`POLLIN`) once the whole process has exited.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Process {
    /// Opens the process `pid`, a PID of our PID namespace.
    ///
    /// Everything later goes through two descriptors, a pidfd and `/proc/PID`, which belong to
    /// this process and not to a later one of the same PID.
    ///
    /// # Errors
    /// [`OpenError`]: no such process, a thread, a zombie, a kernel thread, or no permission to read
    /// `/proc/PID/maps` (`PTRACE_MODE_READ_FSCREDS`).
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        if pid <= 0 {
            return Err(OpenError::NoSuchProcess { pid });
        }
        let dir = ProcDir::open(pid).map_err(|e| open_failure(pid, e))?;
        let fail = |what, error| system_failure(pid, what, error);
        let status = dir.status().map_err(|e| fail("read the status", e))?;
        if status.tgid != pid {
            return Err(OpenError::NotALeader { tid: pid, pid: status.tgid });
        }
        let pidfd = pidfd_open(pid).map_err(|e| fail("open a pidfd", e))?;
        // The directory was opened before the pidfd and still answers: both are one process.
        let stat = dir.read("stat").map_err(|e| fail("read the state", e))?;
        let stat = Stat::parse(&stat)
            .ok_or_else(|| fail("parse the state", io::ErrorKind::InvalidData.into()))?;
        let comm = read_comm(&dir);
        if stat.kernel_thread {
            return Err(OpenError::KernelThread { pid, comm: comm.into() });
        }
        // The leading thread may have ended before the others: then it is a zombie, and the
        // process is not. The pidfd answers for the whole process.
        if stat.is_zombie() && readable_within(pidfd.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
        {
            return Err(OpenError::Zombie { pid, comm: comm.into() });
        }
        if let Err(e) = dir.open_file("maps") {
            return Err(match e.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => {
                    OpenError::Permission { pid, comm: comm.into(), uid: status.euid }
                }
                _ => system_failure(pid, "read the memory map", e),
            });
        }
        let identity = identity(&dir, comm, status);
        Ok(Self { pid, pidfd, dir, start_time: stat.start_time, identity })
    }

    /// The process id in our PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it was started, in clock ticks since boot (field 22 of `/proc/PID/stat`). Together
    /// with the PID this identifies a process until the next boot.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Its identity when it was opened.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its identity now: it may have executed another program.
    ///
    /// # Errors
    /// The system's error, `ESRCH` once the process is gone.
    pub fn read_identity(&self) -> io::Result<Identity> {
        Ok(identity(&self.dir, read_comm(&self.dir), self.dir.status()?))
    }

    /// The program that it executes now.
    ///
    /// # Errors
    /// The system's error, `ESRCH` once the process is gone.
    pub fn program(&self) -> io::Result<Program> {
        // The thread's own file: that of the process adds up the times of all threads.
        let mut file = ThreadFile::default();
        let text = file.read(&self.dir, self.pid, "stat")?;
        let stat = Stat::parse(text).ok_or(io::ErrorKind::InvalidData)?;
        let begin = text.iter().position(|b| *b == b'(').map_or(0, |at| at + 1);
        let end = text.iter().rposition(|b| *b == b')').unwrap_or(begin);
        let comm = String::from_utf8_lossy(text.get(begin..end).unwrap_or_default()).into_owned();
        Ok(Program { comm, at: stat.program_at })
    }

    /// Whether any of its threads still exists. A zombie is not alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !readable_within(self.pidfd.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
    }

    /// Waits until the process has exited, or for `timeout`. True once it has.
    ///
    /// # Errors
    /// The error of `poll`; `Interrupted` when a signal came, so that a caller can look at why.
    pub fn wait_exit(&self, timeout: Option<Duration>) -> io::Result<bool> {
        readable_within(self.pidfd.as_fd(), timeout)
    }

    /// Whether its PID still belongs to it (also as a zombie).
    #[must_use]
    pub fn same_process(&self) -> bool {
        let stat = self.dir.read("stat").ok().and_then(|text| Stat::parse(&text));
        stat.is_some_and(|s| s.start_time == self.start_time)
    }

    /// Its memory.
    ///
    /// # Errors
    /// When descriptors run out. Missing permissions only show on reading: see
    /// [`ProcessMemory::probe`].
    pub fn memory(&self) -> io::Result<ProcessMemory> {
        let tid = self.memory_thread();
        Ok(ProcessMemory::new(tid, self.pidfd.try_clone()?, self.open_memory_dir(tid)?))
    }

    /// A thread that still has the address space: the leader, unless it has ended before others.
    pub(crate) fn memory_thread(&self) -> i32 {
        // The thread's own file: that of the process adds up the times of all threads.
        let mut file = ThreadFile::default();
        let stat = file.read(&self.dir, self.pid, "stat").ok().and_then(Stat::parse);
        if !stat.is_some_and(|s| s.is_zombie()) {
            return self.pid;
        }
        let others = self.threads().unwrap_or_default();
        others.into_iter().find(|tid| *tid != self.pid).unwrap_or(self.pid)
    }

    /// `/proc/TID` of a thread of ours.
    pub(crate) fn open_memory_dir(&self, tid: i32) -> io::Result<ProcDir> {
        if tid == self.pid {
            return ProcDir::reopen(&self.dir);
        }
        let dir = ProcDir::open(tid)?;
        if dir.status()?.tgid == self.pid { Ok(dir) } else { Err(Errno::ESRCH.into()) }
    }
}

fn identity(dir: &ProcDir, comm: String, status: Status) -> Identity {
    let exe = dir.read_link("exe").ok();
    let (exe, exe_deleted) = match exe {
        Some(path) => {
            let (path, deleted) = crate::maps::strip_deleted(path.into_encoded_bytes());
            (Some(os_string(path)), deleted)
        }
        None => (None, false),
    };
    let raw = dir.read("cmdline").unwrap_or_default();
    let trimmed = raw.strip_suffix(b"\0").unwrap_or(&raw);
    let cmdline = if trimmed.is_empty() {
        Vec::new()
    } else {
        trimmed.split(|b| *b == 0).map(|a| os_string(a.to_vec())).collect()
    };
    let container = dir.read("cgroup").ok().and_then(|text| container_id(&text));
    let (uid, gid) = (status.euid, status.egid);
    let ns_pids = status.nspid.unwrap_or_default();
    Identity { comm, cmdline, exe, exe_deleted, uid, gid, ns_pids, container }
}

fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

fn read_comm(dir: &ProcDir) -> String {
    let text = dir.read("comm").unwrap_or_default();
    String::from_utf8_lossy(text.strip_suffix(b"\n").unwrap_or(&text)).into_owned()
}

fn open_failure(pid: i32, error: io::Error) -> OpenError {
    match error.raw_os_error() {
        // hidepid=2 hides the directory of a process that signals can still be checked against.
        Some(libc::ENOENT | libc::ESRCH) => {
            let exists = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
            if exists == Err(Errno::EPERM) {
                OpenError::Permission { pid, comm: "".into(), uid: u32::MAX }
            } else {
                OpenError::NoSuchProcess { pid }
            }
        }
        Some(libc::EACCES | libc::EPERM) => {
            OpenError::Permission { pid, comm: "".into(), uid: u32::MAX }
        }
        _ => OpenError::System { pid, what: "open the directory in /proc", error },
    }
}

fn system_failure(pid: i32, what: &'static str, error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => OpenError::NoSuchProcess { pid },
        Some(libc::EACCES | libc::EPERM) => {
            OpenError::Permission { pid, comm: "".into(), uid: u32::MAX }
        }
        _ => OpenError::System { pid, what, error },
    }
}

#[allow(unsafe_code)]
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the descriptor was just given to us and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until the descriptor is readable or the time has passed; `None` waits forever.
pub(crate) fn readable_within(fd: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<bool> {
    let timeout = match time {
        None => PollTimeout::NONE,
        Some(t) => {
            // Rounded up, so that a wait of 0.5 ms is not a busy loop.
            let ms = t.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        }
    };
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    Ok(poll(&mut fds, timeout)? > 0)
}

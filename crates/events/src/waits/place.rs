//! Classifies waits by their system call.

use super::WaitReason;

/// `__TASK_STOPPED | __TASK_TRACED` (linux/sched.h): stopped by job control or a debugger.
const STOPPED: u32 = 4 | 8;

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitKind {
    /// Another thread: locks, condition variables, joins.
    Futex,
    /// Time.
    Sleep,
    /// Any of several descriptors.
    Poll,
    /// One descriptor, or the file system.
    Io,
    /// A child process.
    Child,
    /// A signal.
    Signal,
    /// A page of memory.
    PageFault,
    /// Being resumed by job control or a debugger.
    Stopped,
    /// Some other system call.
    Other,
    /// A CPU.
    Runnable,
}

impl WaitKind {
    /// The value of the label `wait`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Futex => "futex",
            Self::Sleep => "sleep",
            Self::Poll => "poll",
            Self::Io => "io",
            Self::Child => "child",
            Self::Signal => "signal",
            Self::PageFault => "page fault",
            Self::Stopped => "stopped",
            Self::Other => "other",
            Self::Runnable => "runnable",
        }
    }
}

impl WaitReason {
    /// What a thread waits for at this place.
    #[must_use]
    pub fn kind(self) -> WaitKind {
        if self.state & STOPPED != 0 {
            return WaitKind::Stopped;
        }
        self.syscall.map_or(WaitKind::PageFault, |number| of_syscall(i64::from(number)))
    }
}

/// `futex_waitv` (5.16) and `futex_wait` (6.7), the same on all architectures.
const FUTEX_WAITV: i64 = 449;
const FUTEX_WAIT: i64 = 455;

fn of_syscall(number: i64) -> WaitKind {
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_poll | libc::SYS_select | libc::SYS_epoll_wait => return WaitKind::Poll,
        libc::SYS_pause => return WaitKind::Signal,
        libc::SYS_open
        | libc::SYS_rename
        | libc::SYS_unlink
        | libc::SYS_mkdir
        | libc::SYS_rmdir
        | libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_getdents => return WaitKind::Io,
        _ => {}
    }
    match number {
        libc::SYS_futex | FUTEX_WAITV | FUTEX_WAIT => WaitKind::Futex,
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep => WaitKind::Sleep,
        libc::SYS_ppoll
        | libc::SYS_pselect6
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_io_uring_enter
        | libc::SYS_io_getevents => WaitKind::Poll,
        libc::SYS_wait4 | libc::SYS_waitid => WaitKind::Child,
        libc::SYS_rt_sigsuspend | libc::SYS_rt_sigtimedwait => WaitKind::Signal,
        libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_pread64
        | libc::SYS_preadv
        | libc::SYS_preadv2
        | libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_connect
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_sync
        | libc::SYS_syncfs
        | libc::SYS_sync_file_range
        | libc::SYS_msync
        | libc::SYS_sendfile
        | libc::SYS_splice
        | libc::SYS_copy_file_range
        | libc::SYS_fallocate
        | libc::SYS_ftruncate
        | libc::SYS_flock
        | libc::SYS_fcntl
        | libc::SYS_openat
        | libc::SYS_openat2
        | libc::SYS_close
        | libc::SYS_unlinkat
        | libc::SYS_renameat2
        | libc::SYS_mkdirat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_getdents64
        | libc::SYS_ioctl => WaitKind::Io,
        _ => WaitKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let place = |syscall: Option<i64>, state| WaitReason {
            syscall: syscall.map(|n| n as u32),
            state,
            ..WaitReason::default()
        };
        assert_eq!(place(Some(libc::SYS_futex), 1).kind(), WaitKind::Futex);
        assert_eq!(place(Some(libc::SYS_fsync), 2).kind(), WaitKind::Io);
        assert_eq!(place(Some(libc::SYS_fsync), 8).kind(), WaitKind::Stopped);
        assert_eq!(place(Some(libc::SYS_clock_nanosleep), 1).kind(), WaitKind::Sleep);
        assert_eq!(place(Some(libc::SYS_ppoll), 1).kind(), WaitKind::Poll);
        assert_eq!(place(Some(libc::SYS_mmap), 2).kind(), WaitKind::Other);
        assert_eq!(place(None, 2).kind(), WaitKind::PageFault);
    }
}

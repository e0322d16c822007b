//! Describes the states of threads, such as `futex wait` or `epoll_wait`.

use process::{BlockedCall, ThreadWait};

macro_rules! calls {
    ($($name:ident)*) => {
        &[$((libc::$name, stringify!($name))),*]
    };
}

/// The system calls that threads sleep in.
const CALLS: &[(i64, &str)] = calls!(
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev
    SYS_preadv2 SYS_pwritev2 SYS_ioctl SYS_fsync SYS_fdatasync SYS_sync SYS_sendfile SYS_splice
    SYS_copy_file_range SYS_openat SYS_connect SYS_accept SYS_accept4 SYS_recvfrom SYS_sendto
    SYS_recvmsg SYS_sendmsg SYS_recvmmsg SYS_sendmmsg SYS_ppoll SYS_pselect6 SYS_epoll_pwait
    SYS_epoll_pwait2 SYS_nanosleep SYS_clock_nanosleep SYS_rt_sigtimedwait SYS_rt_sigsuspend
    SYS_wait4 SYS_waitid SYS_flock SYS_fcntl SYS_semop SYS_semtimedop SYS_msgrcv SYS_msgsnd
    SYS_io_getevents SYS_io_uring_enter SYS_execve SYS_clone3 SYS_madvise SYS_munmap
    SYS_sched_yield
);

/// Further system calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(i64, &str)] =
    calls!(SYS_poll SYS_select SYS_epoll_wait SYS_pause SYS_vfork SYS_open);
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(i64, &str)] = &[];

/// The state of a thread as the header of its stack shows it: `running`, `futex wait`,
/// `epoll_wait`, `disk sleep in folio_wait_bit`.
pub(crate) fn state(wait: Option<&ThreadWait>) -> String {
    let Some(wait) = wait else { return "running".into() };
    let within = wait.kernel_function.as_deref();
    let sleep = |what: &str| within.map_or(what.to_owned(), |f| format!("{what} in {f}"));
    match wait.state {
        'D' => sleep("disk sleep"),
        'T' => "stopped".into(),
        't' => "stopped by a debugger".into(),
        'Z' | 'X' => "exited".into(),
        'S' => match wait.call {
            Some(call) if call.number == libc::SYS_futex => "futex wait".into(),
            // An interrupted wait with a timeout continues under this number (restart_syscall(2)).
            Some(call) if call.number == libc::SYS_restart_syscall => sleep("sleeping"),
            Some(call) if call.number >= 0 => call_name(call.number),
            _ => sleep("sleeping"),
        },
        _ => "running".into(),
    }
}

/// Whether [`state`] shows the kernel function that the thread waits in, if that is known.
pub(crate) fn shows_kernel_function(wait: &ThreadWait) -> bool {
    let named = |c: BlockedCall| c.number >= 0 && c.number != libc::SYS_restart_syscall;
    match wait.state {
        'D' => true,
        'S' => !wait.call.is_some_and(named),
        _ => false,
    }
}

/// A thread's name in the header of its stack, `[state, thread NAME]`: nothing in it may end the
/// header or the line. A thread can set any name.
pub(crate) fn in_header(name: &str) -> String {
    printable::line(name).replace(']', "\\x5d")
}

/// The state of a thread that is not on a CPU, for a label. There are only a few values, so that
/// samples can be grouped by it.
pub(crate) fn coarse_state(wait: &ThreadWait) -> &'static str {
    match wait.state {
        'D' => "disk",
        'T' | 't' => "stopped",
        'R' => "running",
        _ => "sleeping",
    }
}

fn call_name(number: i64) -> String {
    let known = CALLS.iter().chain(OLD_CALLS).find(|(n, _)| *n == number);
    known.map_or_else(
        || format!("system call {number}"),
        |(_, name)| name.trim_start_matches("SYS_").to_owned(),
    )
}

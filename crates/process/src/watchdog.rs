//! Forks the process that restores what we changed if we are killed.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// A word of memory and its two values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub address: u64,
    pub old: u64,
    pub new: u64,
}

/// Our side of the watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pid: Pid,
    socket: OwnedFd,
}

/// The descriptors of the child, by number.
const SOCKET: RawFd = 0;
const MEMORY: RawFd = 1;
const PIDFD: RawFd = 2;
const LOCK: RawFd = 3;

impl Watchdog {
    /// Forks it. `lock` is a descriptor that it holds open as long as it lives.
    ///
    /// It has a session and process group of its own, so that neither Ctrl-C nor `kill -9` of our
    /// group reaches it. It blocks all signals, closes all descriptors but its own, and makes system
    /// calls only.
    pub(crate) fn start(
        memory: RawFd,
        pidfd: RawFd,
        lock: Option<RawFd>,
        change: Change,
    ) -> io::Result<Self> {
        let (ours, its) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        let from = [its.as_raw_fd(), memory, pidfd, lock.unwrap_or(its.as_raw_fd())];
        let forked = fork_into(from, change);
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        Ok(Self { pid: forked?, socket: ours })
    }

    /// Tells it that nothing is left to do, and reaps it.
    pub(crate) fn dismiss(self) {
        // Fails where it has ended before us, with the target.
        let _ = send(self.socket.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

#[allow(unsafe_code)]
fn fork_into(from: [RawFd; 4], change: Change) -> io::Result<Pid> {
    // SAFETY: the child of a process with several threads may only call what is async-signal-safe.
    // It calls `watch`, which makes system calls, allocates nothing and never returns.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => watch(from, change),
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

#[allow(unsafe_code)]
fn watch(from: [RawFd; 4], change: Change) -> ! {
    // SAFETY: all calls are plain system calls on descriptors of this process and on locals that
    // live as long as the calls. First to high numbers and then down, so that no descriptor that
    // is still needed is overwritten.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"exoprof-restore".as_ptr());
        let mut high = [0; 4];
        for (to, from) in high.iter_mut().zip(from) {
            *to = libc::fcntl(from, libc::F_DUPFD, 10);
        }
        for (number, from) in [SOCKET, MEMORY, PIDFD, LOCK].into_iter().zip(high) {
            libc::dup2(from, number);
        }
        if libc::syscall(libc::SYS_close_range, LOCK + 1, u32::MAX, 0) != 0 {
            // Before Linux 5.9.
            for fd in LOCK + 1..65_536 {
                libc::close(fd);
            }
        }
        wait_and_restore(change);
        libc::_exit(0)
    }
}

/// Returns when there is nothing left to do.
#[allow(unsafe_code)]
fn wait_and_restore(change: Change) {
    loop {
        let event = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [event(SOCKET), event(PIDFD)];
        // SAFETY: two entries, which live through the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        if ready < 0 {
            continue;
        }
        // The target has exited.
        if fds[1].revents != 0 {
            return;
        }
        if fds[0].revents != 0 {
            let mut word = 0u8;
            // SAFETY: one byte of a local.
            let n = unsafe { libc::read(SOCKET, (&raw mut word).cast(), 1) };
            match n {
                1 => return,
                0 => return restore(change),
                // An interruption, or a connection that was reset: our end is gone with it.
                _ if Errno::last() == Errno::EINTR => {}
                _ => return restore(change),
            }
        }
    }
}

#[allow(unsafe_code)]
fn restore(change: Change) {
    let Ok(at) = libc::off_t::try_from(change.address) else { return };
    let mut found = 0u64;
    let old = change.old;
    // SAFETY: eight bytes of a local each; the addresses are the target's and mean nothing here.
    unsafe {
        let n = libc::pread(MEMORY, (&raw mut found).cast(), 8, at);
        if n == 8 && found == change.new {
            libc::pwrite(MEMORY, (&raw const old).cast(), 8, at);
        }
    }
}

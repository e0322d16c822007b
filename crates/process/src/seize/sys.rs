//! Calls ptrace(2) and waitid(2) directly: nix supports neither real-time signals nor the stops of
//! `PTRACE_SEIZE`.

use nix::errno::Errno;

use super::Stop;

/// linux/ptrace.h
const PTRACE_EVENT_STOP: i32 = 128;

/// The state of a seized thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// It runs.
    Nothing,
    /// It is stopped.
    Stopped(Stop),
    /// It has ended (and was reaped, if we are to), or its id is another thread's.
    Ended,
}

/// Becomes the thread's tracer without stopping it. Without options, the death of the tracer detaches
/// without harm, and exec, clone and exit do not stop.
pub(super) fn seize(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SEIZE as i64, tid, 0, 0)
}

/// Asks a seized thread to stop. No signal is involved.
pub(super) fn interrupt(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT as i64, tid, 0, 0)
}

/// Detaches from a stopped thread, which gets the signal unless it is 0.
pub(super) fn detach(tid: i32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH as i64, tid, 0, signal as usize)
}

/// Reads the general registers (`NT_PRSTATUS`) into `words`. Returns the length in bytes.
pub(super) fn registers(tid: i32, words: &mut [u64]) -> Result<usize, Errno> {
    let len = std::mem::size_of_val(words);
    let mut out = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: len };
    let set = usize::try_from(libc::NT_PRSTATUS).unwrap_or(1);
    request(libc::PTRACE_GETREGSET as i64, tid, set, (&raw mut out) as usize)?;
    Ok(out.iov_len)
}

#[allow(unsafe_code)]
fn request(request: i64, tid: i32, addr: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: of the requests made above only PTRACE_GETREGSET has us written to: `data` is the
    // address of a live iovec, which bounds a live array. The others take integers.
    let rc = unsafe { libc::ptrace(request as _, tid, addr, data) };
    if rc < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Checks whether a seized thread has stopped or ended. With `reap`, reaps one that has ended.
pub(super) fn look(tid: i32, reap: bool) -> Waited {
    let ended = if reap { libc::WEXITED } else { 0 };
    let Ok(info) = wait_for(tid, libc::WSTOPPED | ended) else { return Waited::Ended };
    match info {
        None => Waited::Nothing,
        Some((libc::CLD_TRAPPED | libc::CLD_STOPPED, status)) => Waited::Stopped(stop(status)),
        Some(_) => Waited::Ended,
    }
}

/// Reaps a seized thread if it has ended. Any thread of the tracer's process may do so.
pub(super) fn reap(tid: i32) {
    let _ = wait_for(tid, libc::WEXITED);
}

/// `si_code` and `si_status` of a new change of that kind.
#[allow(unsafe_code)]
fn wait_for(tid: i32, what: i32) -> Result<Option<(i32, i32)>, Errno> {
    let options = what | libc::__WALL | libc::WNOHANG;
    let id = libc::id_t::from(tid.cast_unsigned());
    // SAFETY: siginfo_t is plain data; waitid fills it. Only this one thread is waited for, so
    // that no other child of ours is reaped by mistake.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(libc::P_PID, id, &raw mut info, options) < 0 {
            return Err(Errno::last());
        }
        Ok((info.si_pid() != 0).then(|| (info.si_code, info.si_status())))
    }
}

/// `status` is the signal, with the ptrace event in the byte above.
fn stop(status: i32) -> Stop {
    match (status >> 8, status & 0xff) {
        (PTRACE_EVENT_STOP, libc::SIGTRAP) => Stop::Interrupted,
        (PTRACE_EVENT_STOP, signal) => Stop::Group(signal),
        (0, signal) => Stop::Signal(signal),
        _ => Stop::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_stop_are_told_apart() {
        let status = |event: i32, signal: i32| event << 8 | signal;
        assert_eq!(stop(status(0, libc::SIGURG)), Stop::Signal(libc::SIGURG));
        assert_eq!(stop(status(0, 40)), Stop::Signal(40), "real-time signals, too");
        assert_eq!(stop(status(128, libc::SIGTRAP)), Stop::Interrupted);
        assert_eq!(stop(status(128, libc::SIGTSTP)), Stop::Group(libc::SIGTSTP));
        // A SIGTRAP that somebody sent is a signal.
        assert_eq!(stop(status(0, libc::SIGTRAP)), Stop::Signal(libc::SIGTRAP));
    }
}

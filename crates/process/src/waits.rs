//! Reads what a thread is blocked in from `/proc`.

use std::io;

use image::Avma;

use crate::Process;
use crate::procdir::ThreadFile;
use crate::stat::{Stat, decimal};

/// A system call that a thread is blocked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedCall {
    /// Its number; −1 where the thread is blocked without one, in a page fault.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The user's stack pointer.
    pub sp: Avma,
    /// The user's program counter.
    pub pc: Avma,
}

/// A thread at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadWait {
    /// The state letter of proc_pid_stat(5): R, S, D, T, t, Z, I.
    pub state: char,
    /// The system call that it is blocked in; `None` while it runs, or where we lack the permission.
    pub call: Option<BlockedCall>,
    /// The kernel function that it sleeps in, where the kernel shows it.
    pub kernel_function: Option<Box<str>>,
}

/// The scheduler's counters of a thread (Documentation/scheduler/sched-stats.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Nanoseconds on a CPU; up to one scheduler tick old for a running thread.
    pub cpu_ns: u64,
    /// How often it was put on a CPU. If this is the same at two times at which it slept, it slept
    /// all the time between.
    pub timeslices: u64,
}

impl Process {
    /// The scheduler's counters of a thread.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone, or for a kernel without these counters.
    pub fn thread_schedule(&self, tid: i32) -> io::Result<Schedule> {
        let mut file = ThreadFile::default();
        let text = file.read(&self.dir, tid, "schedstat")?;
        let mut words = text.trim_ascii().split(|b| *b == b' ').map(decimal);
        let (cpu, _waiting, slices) = (words.next(), words.next(), words.next());
        match (cpu.flatten(), slices.flatten()) {
            (Some(cpu_ns), Some(timeslices)) => Ok(Schedule { cpu_ns, timeslices }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// State, system call and kernel function of a thread, read one after the other.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn thread_wait(&self, tid: i32) -> io::Result<ThreadWait> {
        let mut file = ThreadFile::default();
        let stat = Stat::parse(file.read(&self.dir, tid, "stat")?);
        let state = char::from(stat.ok_or(io::ErrorKind::InvalidData)?.state);
        if state == 'R' {
            return Ok(ThreadWait { state, ..ThreadWait::default() });
        }
        let call = file.read(&self.dir, tid, "syscall").ok().and_then(parse_call);
        let function = file.read(&self.dir, tid, "wchan").ok();
        let function = function.filter(|f| !f.is_empty() && *f != b"0");
        let kernel_function = function.map(|f| String::from_utf8_lossy(f).into());
        Ok(ThreadWait { state, call, kernel_function })
    }

    /// The state letter of a thread (proc_pid_stat(5)).
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn thread_state_letter(&self, tid: i32) -> io::Result<char> {
        let mut file = ThreadFile::default();
        let stat = Stat::parse(file.read(&self.dir, tid, "stat")?);
        Ok(char::from(stat.ok_or(io::ErrorKind::InvalidData)?.state))
    }
}

/// `NR A0 A1 A2 A3 A4 A5 SP PC`, `-1 SP PC` or `running` (proc_pid_syscall(5)).
fn parse_call(text: &[u8]) -> Option<BlockedCall> {
    let mut words = text.trim_ascii().split(|b| *b == b' ');
    let first = words.next()?;
    let number = match first.strip_prefix(b"-") {
        Some(digits) => -i64::try_from(decimal(digits)?).ok()?,
        None => i64::try_from(decimal(first)?).ok()?,
    };
    let mut hex = || {
        let text = std::str::from_utf8(words.next()?).ok()?;
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    let mut arguments = [0; 6];
    if number >= 0 {
        for a in &mut arguments {
            *a = hex()?;
        }
    }
    Some(BlockedCall { number, arguments, sp: Avma(hex()?), pc: Avma(hex()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_taken_apart() {
        let call = parse_call(b"202 0x1 0x80 0x2 0x0 0x0 0x0 0x7ffc0 0x7f01\n").unwrap();
        assert_eq!((call.number, call.arguments[..3].to_vec()), (202, vec![1, 0x80, 2]));
        assert_eq!((call.sp, call.pc), (Avma(0x7ffc0), Avma(0x7f01)));
        let fault = parse_call(b"-1 0x7ffc0 0x7f01\n").unwrap();
        assert_eq!((fault.number, fault.sp), (-1, Avma(0x7ffc0)));
        assert_eq!(parse_call(b"running\n"), None);
        assert_eq!(parse_call(b"202 0x1"), None);
        assert_eq!(parse_call(b""), None);
    }
}

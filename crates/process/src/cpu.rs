//! Lists the threads of a process and reads their CPU times.

use std::collections::HashMap;
use std::io;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::Process;
use crate::procdir::ThreadFile;
use crate::stat::{Stat, decimal};

/// `pid_max` is at most 4 Mi.
const MAX_THREADS: usize = 1 << 22;

/// The CPU time of every thread of a process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Nanoseconds on a CPU since the thread began, by thread ID.
    pub by_thread: HashMap<i32, u64>,
    /// Threads that were listed and had ended when their time was read.
    pub vanished: usize,
}

impl CpuTimes {
    /// The sum over all threads, nanoseconds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_thread.values().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

/// Reads [`CpuTimes`] repeatedly with the same descriptors and buffers: three system calls and no
/// allocation per thread.
#[derive(Debug)]
pub struct CpuTimesReader {
    list: Dir,
    file: ThreadFile,
}

impl CpuTimesReader {
    /// A reader for this process.
    ///
    /// # Errors
    /// The error of opening `/proc/PID/task`.
    pub fn new(process: &Process) -> io::Result<Self> {
        Ok(Self { list: open_task(process)?, file: ThreadFile::default() })
    }

    /// Replaces `out` with the current times. `process` must be the one the reader was made for.
    ///
    /// # Errors
    /// The error of listing the threads; `ESRCH` once the process is gone.
    pub fn read(&mut self, process: &Process, out: &mut CpuTimes) -> io::Result<()> {
        out.by_thread.clear();
        out.vanished = 0;
        let Self { list, file } = self;
        for_each_thread(list, |tid| match time_of_thread(process, file, tid) {
            Ok(ns) => {
                out.by_thread.insert(tid, ns);
            }
            Err(_) => out.vanished += 1,
        })
    }
}

impl Process {
    /// The ids of its threads in our PID namespace, as `/proc` lists them.
    ///
    /// # Errors
    /// The error of reading `/proc/PID/task`; `ESRCH` or `ENOENT` once the process is gone.
    pub fn threads(&self) -> io::Result<Vec<i32>> {
        let mut out = Vec::new();
        for_each_thread(&mut open_task(self)?, |tid| out.push(tid))?;
        if out.is_empty() {
            return Err(Errno::ESRCH.into());
        }
        Ok(out)
    }

    /// Maps the thread IDs of the process' own PID namespace to ours. In a container they differ.
    ///
    /// # Errors
    /// As [`Process::threads`].
    pub fn threads_by_own_number(&self) -> io::Result<HashMap<i32, i32>> {
        let tids = self.threads()?;
        if self.identity().ns_pids.len() <= 1 {
            return Ok(tids.into_iter().map(|tid| (tid, tid)).collect());
        }
        let own = |tid| self.dir.thread_status(tid).ok()?.nspid?.last().copied();
        Ok(tids.into_iter().filter_map(|tid| Some((own(tid)?, tid))).collect())
    }

    /// The thread's name (at most 15 bytes), which it can set itself.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn thread_name(&self, tid: i32) -> io::Result<String> {
        let mut file = ThreadFile::default();
        let text = file.read(&self.dir, tid, "comm")?;
        Ok(String::from_utf8_lossy(text.strip_suffix(b"\n").unwrap_or(text)).into_owned())
    }

    /// The thread's id in its own PID namespace.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn inner_thread_id(&self, tid: i32) -> io::Result<i32> {
        let numbers = self.dir.thread_status(tid)?.nspid.unwrap_or_default();
        Ok(numbers.last().copied().unwrap_or(tid))
    }

    /// Context switches of the thread since it began: `voluntary_ctxt_switches` and
    /// `nonvoluntary_ctxt_switches` of `status`.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn thread_switches(&self, tid: i32) -> io::Result<u64> {
        let status = self.dir.thread_status(tid)?;
        let counts = [status.voluntary_ctxt_switches, status.nonvoluntary_ctxt_switches];
        Ok(counts.into_iter().flatten().fold(0, u64::saturating_add))
    }

    /// Nanoseconds that the thread spent on a CPU, user and kernel: the first field of
    /// `schedstat`. For a thread that runs this moment it is up to one scheduler tick old.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn thread_cpu_time(&self, tid: i32) -> io::Result<u64> {
        time_of_thread(self, &mut ThreadFile::default(), tid)
    }

    /// The thread's CPU time in user mode and in the kernel, in clock ticks: coarse, but the kernel
    /// reports the split nowhere else.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` once the thread is gone.
    pub fn thread_mode_ticks(&self, tid: i32) -> io::Result<(u64, u64)> {
        let mut file = ThreadFile::default();
        let stat = Stat::parse(file.read(&self.dir, tid, "stat")?);
        Ok(stat.ok_or(io::ErrorKind::InvalidData)?.own_ticks)
    }

    /// Nanoseconds that all threads spent on a CPU, ended ones included: exact, until now or until
    /// its end for a zombie.
    ///
    /// # Errors
    /// `ESRCH` once the process has exited and was waited for.
    pub fn process_cpu_time(&self) -> io::Result<u64> {
        let clock = nix::time::clock_getcpuclockid(Pid::from_raw(self.pid()))?;
        let time = nix::time::clock_gettime(clock)?;
        // The clock goes by PID. As the process still exists, the clock was its own.
        if !self.is_alive() && !self.same_process() {
            return Err(Errno::ESRCH.into());
        }
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// Nanoseconds of CPU time of children (and their children) that it has waited for, in steps
    /// of a clock tick (usually 10 ms).
    ///
    /// # Errors
    /// `ESRCH` once the process is gone.
    pub fn reaped_children_cpu_time(&self) -> io::Result<u64> {
        let stat = Stat::parse(&self.dir.read("stat")?).ok_or(io::ErrorKind::InvalidData)?;
        Ok(nanos_of_ticks(stat.children_ticks))
    }
}

fn open_task(process: &Process) -> io::Result<Dir> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(Dir::openat(&process.dir, "task", flags, Mode::empty())?)
}

fn for_each_thread(task: &mut Dir, mut f: impl FnMut(i32)) -> io::Result<()> {
    for entry in task.iter().take(MAX_THREADS) {
        let entry = entry?;
        let tid = decimal(entry.file_name().to_bytes()).and_then(|n| i32::try_from(n).ok());
        if let Some(tid) = tid {
            f(tid);
        }
    }
    Ok(())
}

fn time_of_thread(process: &Process, file: &mut ThreadFile, tid: i32) -> io::Result<u64> {
    match file.read(&process.dir, tid, "schedstat") {
        Ok(text) => {
            let first = text.split(|b| *b == b' ').next().unwrap_or_default();
            decimal(first).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        // A kernel without CONFIG_SCHED_INFO has no such file; neither has a thread that ended.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            let stat = Stat::parse(file.read(&process.dir, tid, "stat")?);
            let (user, kernel) = stat.ok_or(io::ErrorKind::InvalidData)?.own_ticks;
            Ok(nanos_of_ticks(user.saturating_add(kernel)))
        }
        Err(e) => Err(e),
    }
}

fn nanos_of_ticks(ticks: u64) -> u64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let per_second = u64::try_from(per_second).unwrap_or(100).max(1);
    ticks.saturating_mul(1_000_000_000 / per_second)
}

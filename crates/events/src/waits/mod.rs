//! Samples blocked threads and the threads that wake them, with BPF programs (`bpf/waits.bpf.c`).
//!
//! The programs run at the scheduler's tracepoints and decide which waits are sampled. Each sample
//! is written in the context of the sampled thread, where perf copies its registers and stack, to
//! one event per CPU, whose ring also gets the records of threads and mappings.
//!
//! With interpreters, `bpf/waits_chains.bpf.c` does the same and also follows the thread's chain of
//! frames ([`Chains`]) right before each sample.

mod abi;
mod outputs;
mod place;
mod rate;
mod syscall;

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Btf;
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{BtfTracePoint, Iter};
use zerocopy::{FromBytes as _, transmute};

pub use abi::{Fixed, WaitCounters, WaitId, WaitReason, WaitSample, Waited, Waiting, Woke};
pub use outputs::WaitOutputs;
pub use place::WaitKind;

use crate::bpf::waits::{
    COUNTERS, Futex, FutexBytes, FutexKey, OBJECT, OBJECT_WITH_CHAINS, Settings, SettingsBytes,
    flags,
};
use crate::bpf::{self, BpfError, BpfStep, Loaded};
use crate::chains::Chains;
use crate::ring::RingError;
use crate::ringset::RingSet;
use rate::Rate;

/// The program that lists threads.
const ITERATOR: &str = "on_task";
/// The longest list of waiting threads that is read: some 100,000 threads.
const MAX_LISTING: u64 = 64 << 20;

/// Why BPF programs cannot sample waiting.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// A program cannot be loaded, attached or used.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The event of a CPU that the programs write to cannot be opened.
    #[error("cannot open the perf event that BPF programs write to on CPU {cpu}: {source}")]
    Event {
        /// The CPU.
        cpu: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// The ring of a CPU cannot be mapped.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// Whether the chains of interpreters are followed.
pub enum WaitChains {
    /// They are not followed: this was not requested.
    NotRequested,
    /// They are followed, for the processes passed to [`Chains::follow`].
    Followed(Box<Chains>),
    /// The kernel rejects the programs that follow them.
    Refused(BpfError),
}

/// What to sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitWants {
    /// The threads that waited.
    pub waits: bool,
    /// The threads that ended others' waits for a futex, and the waiting side of these waits.
    pub wakings: bool,
    /// Only those of the threads that waited for a futex.
    pub futexes_only: bool,
}

impl WaitWants {
    /// Everything that this or the other selects.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let all_waits = |w: Self| w.waits && !w.futexes_only;
        Self {
            waits: self.waits || other.waits,
            wakings: self.wakings || other.wakings,
            futexes_only: !all_waits(self) && !all_waits(other),
        }
    }

    fn flags(self) -> u32 {
        let wanted = [
            (self.waits, flags::WANT_BLOCK),
            (self.wakings, flags::WANT_MUTEX),
            (self.futexes_only, flags::FUTEX_ONLY),
        ];
        wanted.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()
    }
}

/// How to sample.
#[derive(Debug, Clone)]
pub struct WaitOptions {
    /// Follow forked children.
    pub children: bool,
    /// Bytes of user stack to copy with each sample.
    pub stack_bytes: u32,
    /// Bytes of each CPU's ring: less, down to 32 KiB, where the locked-memory limit is smaller.
    pub ring_bytes: usize,
    /// The smallest mean waiting time between two samples, in nanoseconds. It grows where there
    /// would be more than about 1900 samples per second.
    pub finest_rate: u64,
}

/// The BPF programs that sample waiting, and the events that they write to. They are detached and
/// unloaded when this is dropped, or when our process ends.
pub struct WaitSampler {
    object: Loaded,
    kernel_types: Btf,
    settings: Settings,
    block_rate: Rate,
    mutex_rate: Rate,
    outputs: WaitOutputs,
    every_syscall: bool,
    untracked_swept: u64,
}

/// Programs and their tracepoints. `sys_exit` is attached only where necessary.
const PROGRAMS: &[(&str, &str)] = &[
    ("on_switch", "sched_switch"),
    ("on_waking", "sched_waking"),
    ("on_fork", "sched_process_fork"),
    ("on_rseq", "rseq_update"),
];

impl WaitSampler {
    /// Loads and attaches the programs. No process is followed yet. With `chains`, the programs
    /// follow the chains of interpreters too, if the kernel accepts them.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn attach(outputs: WaitOutputs, chains: bool) -> Result<(Self, WaitChains), WaitError> {
        let kernel_types = bpf::kernel_types(&OBJECT)?;
        let plain = || OBJECT.open(Some(&kernel_types));
        let (object, chains) = match chains.then(|| load_with_chains(&kernel_types)) {
            Some(Ok((object, chains))) => (object, WaitChains::Followed(Box::new(chains))),
            Some(Err(e)) => (plain()?, WaitChains::Refused(e)),
            None => (plain()?, WaitChains::NotRequested),
        };
        let rate = Rate::new(outputs.options.finest_rate);
        let mut this = Self {
            object,
            kernel_types,
            settings: settings(&outputs.options),
            block_rate: rate,
            mutex_rate: rate,
            outputs,
            every_syscall: false,
            untracked_swept: 0,
        };
        this.store_settings()?;
        this.outputs.publish(&this.object)?;
        this.attach_all()?;
        Ok((this, chains))
    }

    /// Follows the processes of these pidfds, with all their threads and those they create.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn follow(&mut self, processes: &[BorrowedFd<'_>]) -> Result<(), WaitError> {
        let map = self.object.map_fd("followed")?;
        for process in processes {
            match syscall::set_element(map, process.as_raw_fd().cast_unsigned(), 1) {
                // It has exited.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(self.object.failed(BpfStep::Map("followed")))?,
            }
        }
        self.set_flag(flags::SEEDING, true)?;
        let listing = self.iterate();
        self.set_flag(flags::SEEDING, false)?;
        listing?;
        self.hook_every_syscall_if_needed(&self.counters())
    }

    /// Samples `wants` from `now` on (CLOCK_MONOTONIC, nanoseconds). `threads` is the number of
    /// followed threads.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn begin(&mut self, now: u64, threads: u64, wants: WaitWants) -> Result<(), WaitError> {
        self.block_rate.begin(threads);
        self.mutex_rate.begin(threads);
        self.settings.begin = now;
        self.settings.flags = (self.settings.flags & !flags::WANTS) | wants.flags();
        self.set_flag(flags::RUNNING, true)
    }

    /// Adapts the rates to the number of samples, and hooks system calls if threads need it. Call
    /// this several times a second.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn review(&mut self, now: u64) -> Result<WaitCounters, WaitError> {
        let counters = self.counters();
        let block = self.block_rate.review(counters.picked, now);
        let mutex = self.mutex_rate.review(counters.wakes_picked, now);
        if block || mutex {
            let (block_ns, mutex_ns) = self.rates();
            tracing::debug!(block_ns, mutex_ns, "wait sampling rates changed");
            self.store_settings()?;
        }
        self.hook_every_syscall_if_needed(&counters)?;
        if counters.untracked > self.untracked_swept {
            self.untracked_swept = counters.untracked;
            self.sweep_futexes();
        }
        Ok(counters)
    }

    /// Stops sampling. Pending samples are still written when their threads run, and waiting
    /// threads are still tracked.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn end(&mut self) -> Result<(), WaitError> {
        self.set_flag(flags::RUNNING, false)
    }

    /// The waits of followed threads that have not ended.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn waiting(&mut self) -> Result<Vec<Waiting>, WaitError> {
        Ok(Waiting::parse_all(&self.iterate()?))
    }

    /// Copies `stack_bytes` of stack with each sample from now on.
    ///
    /// # Errors
    /// [`WaitError`]; the old events then stay in use.
    pub fn grow_stack(&mut self, rings: &mut RingSet, stack_bytes: u32) -> Result<(), WaitError> {
        self.outputs.grow_stack(&self.object, rings, stack_bytes)
    }

    /// The programs' counters.
    #[must_use]
    pub fn counters(&self) -> WaitCounters {
        let mut sums = [0; COUNTERS];
        if let Ok(map) = self.object.map::<PerCpuArray<_, u64>>("counters") {
            for (key, sum) in (0u32..).zip(&mut sums) {
                *sum = map.get(&key, 0).map_or(0, |per_cpu| per_cpu.iter().sum());
            }
        }
        WaitCounters::from_array(sums)
    }

    /// The number of waiters in the table of futexes. For tests: a waiter that is never removed
    /// would falsify all later charges.
    #[must_use]
    pub fn futex_waiters(&self) -> u64 {
        let map = self.object.map::<HashMap<_, FutexKey, FutexBytes>>("futexes");
        let rows = map.iter().flat_map(|map| map.iter().flatten());
        rows.map(|(_, futex)| waiters(&futex)).sum()
    }

    /// The current mean nanoseconds of waiting between two samples, for waits and for wakings.
    #[must_use]
    pub fn rates(&self) -> (u64, u64) {
        (self.block_rate.ns(), self.mutex_rate.ns())
    }

    /// Whether the exit of every system call on the machine is hooked, as threads without
    /// restartable sequences require.
    #[must_use]
    pub fn hooks_every_syscall(&self) -> bool {
        self.every_syscall
    }

    fn attach_all(&mut self) -> Result<(), WaitError> {
        for &(program, tracepoint) in PROGRAMS {
            match self.attach_to(program, tracepoint) {
                // A kernel without restartable sequences.
                Err(_) if tracepoint == "rseq_update" => self.hook_every_syscall()?,
                other => other?,
            }
        }
        let failed = self.object.failed(BpfStep::Load(ITERATOR));
        let iterator: &mut Iter = self.object.program_mut(ITERATOR)?;
        iterator.load("task", &self.kernel_types).map_err(failed)?;
        bpf::loaded(ITERATOR);
        Ok(())
    }

    fn attach_to(&mut self, name: &'static str, tracepoint: &str) -> Result<(), WaitError> {
        load_program(&mut self.object, &self.kernel_types, name, tracepoint)?;
        let failed = self.object.failed(BpfStep::Attach(name));
        self.object.program_mut::<BtfTracePoint>(name)?.attach().map_err(failed)?;
        tracing::debug!(program = name, tracepoint, "bpf program attached");
        Ok(())
    }

    fn hook_every_syscall_if_needed(&mut self, seen: &WaitCounters) -> Result<(), WaitError> {
        // Samples were picked and none was written: the hook exists and does not work.
        let mute = seen.picked + seen.wakes_picked > 20 && seen.emitted == 0;
        if seen.no_rseq > 0 || mute {
            self.hook_every_syscall()?;
        }
        Ok(())
    }

    fn hook_every_syscall(&mut self) -> Result<(), WaitError> {
        if !self.every_syscall {
            tracing::debug!("threads without rseq: every system call is hooked");
            self.attach_to("on_sys_exit", "sys_exit")?;
            self.every_syscall = true;
        }
        Ok(())
    }

    /// Runs the iterator over all threads, and returns what it wrote.
    fn iterate(&mut self) -> Result<Vec<u8>, WaitError> {
        let file = self.object.iterate(ITERATOR)?;
        let mut bytes = Vec::new();
        file.take(MAX_LISTING)
            .read_to_end(&mut bytes)
            .map_err(self.object.failed(BpfStep::Iterate(ITERATOR)))?;
        Ok(bytes)
    }

    fn set_flag(&mut self, flag: u32, on: bool) -> Result<(), WaitError> {
        self.settings.flags =
            if on { self.settings.flags | flag } else { self.settings.flags & !flag };
        self.store_settings()
    }

    fn store_settings(&mut self) -> Result<(), WaitError> {
        self.settings.block_rate = self.block_rate.ns();
        self.settings.mutex_rate = self.mutex_rate.ns();
        let failed = self.object.failed(BpfStep::Map("settings"));
        let mut map: Array<_, SettingsBytes> = self.object.map_mut("settings")?;
        let bytes: SettingsBytes = transmute!(self.settings);
        map.set(0, bytes, 0).map_err(failed)?;
        Ok(())
    }

    /// Removes futexes without waiters from the table.
    fn sweep_futexes(&mut self) {
        let map = self.object.map_mut::<HashMap<_, FutexKey, FutexBytes>>("futexes");
        let Ok(mut map) = map else { return };
        let unused = |(key, futex): (FutexKey, FutexBytes)| (waiters(&futex) == 0).then_some(key);
        let keys: Vec<_> = map.iter().flatten().filter_map(unused).collect();
        tracing::debug!(futexes = keys.len(), "table of futexes is full: unused ones removed");
        for key in keys {
            // It may be gone already.
            let _ = map.remove(&key);
        }
    }
}

fn waiters(futex: &FutexBytes) -> u64 {
    Futex::read_from_bytes(futex).map_or(0, |futex| u64::from(futex.waiters))
}

/// Opens the object that follows chains, and loads the programs that follow them. This finds out
/// whether the kernel accepts them before anything is attached.
fn load_with_chains(kernel_types: &Btf) -> Result<(Loaded, Chains), BpfError> {
    let mut object = OBJECT_WITH_CHAINS.open(Some(kernel_types))?;
    load_program(&mut object, kernel_types, "on_waking", "sched_waking")?;
    load_program(&mut object, kernel_types, "on_rseq", "rseq_update")
        .or_else(|_| load_program(&mut object, kernel_types, "on_sys_exit", "sys_exit"))?;
    let chains = Chains::of(&mut object)?;
    Ok((object, chains))
}

/// Loads a program unless it is loaded.
fn load_program(
    object: &mut Loaded,
    kernel_types: &Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<(), BpfError> {
    let failed = object.failed(BpfStep::Load(name));
    let program: &mut BtfTracePoint = object.program_mut(name)?;
    if program.fd().is_ok() {
        return Ok(());
    }
    program.load(tracepoint, kernel_types).map_err(failed)?;
    bpf::loaded(name);
    Ok(())
}

/// What will be sampled is unknown yet: waiters of futexes are tracked in case it is `mutex`.
fn settings(options: &WaitOptions) -> Settings {
    let children = if options.children { flags::CHILDREN } else { 0 };
    let flags = flags::WANT_MUTEX | children;
    Settings { flags, pid_level: host::namespace::pid_level(), ..Settings::default() }
}

#[cfg(test)]
mod tests {
    use super::WaitWants;

    #[test]
    fn wants_combine() {
        let block = WaitWants { waits: true, wakings: false, futexes_only: false };
        let mutex = WaitWants { waits: false, wakings: true, futexes_only: true };
        let waiters = WaitWants { waits: true, wakings: false, futexes_only: true };
        let both = WaitWants { waits: true, wakings: true, futexes_only: false };
        assert_eq!((block.and(mutex), mutex.and(block)), (both, both));
        assert_eq!((block.and(waiters), waiters.and(block)), (block, block));
        assert_eq!(waiters.and(waiters), waiters);
        assert_eq!(mutex.and(waiters), WaitWants { futexes_only: true, ..both });
    }
}

//! Samples of waiting, by BPF programs (`bpf/waits.bpf.c`).
//!
//! The programs decide in the scheduler's tracepoints what is sampled, and write each sample in
//! the context of the sampled thread, where perf copies its registers and stack. They write to
//! one event per CPU, of which the ring also gets what happens to threads and mappings.
//!
//! Where there are interpreters, other programs do the same (`bpf/waits_chains.bpf.c`), which follow
//! the thread's chain of frames ([`Chains`]) right before each sample and name it in the sample.

mod abi;
mod outputs;
mod place;
mod rate;
mod syscall;

use std::io;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{Array, HashMap, Map, PerCpuArray};
use aya::programs::{BtfTracePoint, Iter, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

pub use abi::{Fixed, WaitCounters, WaitId, WaitPlace, WaitSample, Waited, Waiting, Woke};
use abi::{Settings, flags};
pub use outputs::WaitOutputs;
pub use place::WaitKind;

use crate::chains::{ChainError, Chains};
use crate::namespace::own_pid_level;
use crate::refusal::refusal;
use crate::ring::RingError;
use crate::ringset::RingSet;
use rate::Rate;

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/waits.x86_64.o");
#[cfg(target_arch = "x86_64")]
static OBJECT_WITH_CHAINS: &[u8] = aya::include_bytes_aligned!("../../bpf/waits_chains.x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/waits.aarch64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT_WITH_CHAINS: &[u8] = aya::include_bytes_aligned!("../../bpf/waits_chains.aarch64.o");

/// No list of waiting threads is longer: some 100,000 threads.
const MAX_LISTING: u64 = 64 << 20;

/// Why waiting cannot be sampled by BPF programs.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The kernel does not tell its types, which the programs are fitted to.
    #[error("the kernel has no type information (/sys/kernel/btf/vmlinux): {0}")]
    NoTypes(aya::BtfError),
    /// The maps or programs cannot be made from the object.
    #[error("bpf objects were refused: {0}")]
    Load(#[from] aya::EbpfError),
    /// The kernel refuses a program, or has no such tracepoint.
    #[error("the kernel refuses the bpf program {program}: {}", refusal(.source))]
    Program {
        /// Which.
        program: &'static str,
        /// Its answer.
        source: ProgramError,
    },
    /// A map could not be written or read.
    #[error("bpf map {map}: {source}")]
    Map {
        /// Which.
        map: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The event of a CPU.
    #[error("perf_event_open for the output of bpf programs on cpu {cpu}: {source}")]
    Event {
        /// The CPU.
        cpu: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// The ring of a CPU.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// What follows chains.
    #[error(transparent)]
    Chains(#[from] ChainError),
}

/// What became of following the chains of interpreters.
pub enum WaitChains {
    /// Nobody asked for it.
    NotWanted,
    /// They are followed, of the processes that are told to this.
    Followed(Box<Chains>),
    /// The kernel does not let them be followed, for this reason.
    Refused(WaitError),
}

/// What to sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitWants {
    /// The threads that waited.
    pub waits: bool,
    /// The threads that ended others' waits for a futex, and of those the waiting side as well.
    pub wakings: bool,
    /// Of the threads that waited, only those that waited for a futex.
    pub futexes_only: bool,
}

impl WaitWants {
    /// Both what this and what the other wants.
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
    /// Bytes of each CPU's ring: less, down to 32 KiB, where the allowance is smaller.
    pub ring_bytes: usize,
    /// The finest mean time of waiting between two samples, in nanoseconds: it is coarser where
    /// more than about 1900 samples a second would come.
    pub finest_rate: u64,
}

/// BPF programs that sample waiting, and the events that they write to. Nothing of it outlives
/// this value, or the process.
pub struct WaitSampler {
    bpf: Ebpf,
    btf: Btf,
    settings: Settings,
    block_rate: Rate,
    mutex_rate: Rate,
    outputs: WaitOutputs,
    every_syscall: bool,
    untracked_swept: u64,
}

/// Attached from the begin; `sys_exit` only where it is needed.
const PROGRAMS: &[(&str, &str)] = &[
    ("on_switch", "sched_switch"),
    ("on_waking", "sched_waking"),
    ("on_fork", "sched_process_fork"),
    ("on_rseq", "rseq_update"),
];

impl WaitSampler {
    /// Loads the programs and attaches them. Nothing is followed yet. With `chains`, those that
    /// follow chains as well, where the kernel permits it.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn attach(outputs: WaitOutputs, chains: bool) -> Result<(Self, WaitChains), WaitError> {
        let btf = Btf::from_sys_fs().map_err(WaitError::NoTypes)?;
        let with_chains = chains.then(|| load_with_chains(&btf));
        let (bpf, chains) = match with_chains {
            Some(Ok((bpf, chains))) => (bpf, WaitChains::Followed(Box::new(chains))),
            Some(Err(e)) => (load(OBJECT, &btf)?, WaitChains::Refused(e)),
            None => (load(OBJECT, &btf)?, WaitChains::NotWanted),
        };
        let rate = Rate::new(outputs.options.finest_rate);
        let mut this = Self {
            bpf,
            btf,
            settings: settings(&outputs.options),
            block_rate: rate,
            mutex_rate: rate,
            outputs,
            every_syscall: false,
            untracked_swept: 0,
        };
        this.store_settings()?;
        this.outputs.publish(map(&this.bpf, "events")?)?;
        this.attach_all()?;
        Ok((this, chains))
    }

    /// Follows the processes behind these pidfds with all their threads, and what they create.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn follow(&mut self, processes: &[BorrowedFd<'_>]) -> Result<(), WaitError> {
        let map = map(&self.bpf, "followed")?;
        for process in processes {
            let key = std::os::fd::AsRawFd::as_raw_fd(process).cast_unsigned();
            match syscall::set_element(map, key, 1) {
                // It has exited.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(|source| WaitError::Map { map: "followed", source })?,
            }
        }
        self.set_flag(flags::SEEDING, true)?;
        let listing = self.iterate();
        self.set_flag(flags::SEEDING, false)?;
        listing?;
        self.hook_every_syscall_if_needed(&self.counters())
    }

    /// Samples of what is wanted count from here on; `now` is CLOCK_MONOTONIC in nanoseconds,
    /// `threads` how many threads are followed.
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

    /// To be called several times a second: adapts the rates to what comes, and the programs to
    /// threads that are out of their reach.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn review(&mut self, now: u64) -> Result<WaitCounters, WaitError> {
        let counters = self.counters();
        let block = self.block_rate.review(counters.picked, now);
        let mutex = self.mutex_rate.review(counters.wakes_picked, now);
        if block || mutex {
            self.store_settings()?;
        }
        self.hook_every_syscall_if_needed(&counters)?;
        if counters.untracked > self.untracked_swept {
            self.untracked_swept = counters.untracked;
            self.sweep_futexes();
        }
        Ok(counters)
    }

    /// Nothing more is sampled, what was sampled is still written as its threads come by; which
    /// threads wait is still known.
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

    /// Copies `stack_bytes` of stack with each sample from here on.
    ///
    /// # Errors
    /// [`WaitError`]; the old events then serve on.
    pub fn grow_stack(&mut self, rings: &mut RingSet, stack_bytes: u32) -> Result<(), WaitError> {
        let map = map(&self.bpf, "events")?;
        self.outputs.grow_stack(map, rings, stack_bytes)
    }

    /// What the programs have counted.
    #[must_use]
    pub fn counters(&self) -> WaitCounters {
        let mut sums = [0; WaitCounters::COUNT];
        let map = self.bpf.map("counters").and_then(|m| PerCpuArray::<_, u64>::try_from(m).ok());
        if let Some(map) = map {
            for (key, sum) in (0u32..).zip(&mut sums) {
                *sum = map.get(&key, 0).map_or(0, |per_cpu| per_cpu.iter().sum());
            }
        }
        WaitCounters::from_array(sums)
    }

    /// How many waiters the table of futexes counts now; threads that nobody follows any more are
    /// none of them. For tests: one that stayed for good would falsify all later charges.
    #[must_use]
    pub fn futex_waiters(&self) -> u64 {
        let map = self.bpf.map("futexes");
        let map = map.and_then(|m| HashMap::<_, [u64; 2], [u32; 6]>::try_from(m).ok());
        let rows = map.iter().flat_map(|m| m.iter().flatten());
        rows.map(|(_, [_lock, waiters, ..])| u64::from(waiters)).sum()
    }

    /// Mean nanoseconds between two samples of waiting, and of being waited for, in force now.
    #[must_use]
    pub fn rates(&self) -> (u64, u64) {
        (self.block_rate.ns(), self.mutex_rate.ns())
    }

    /// Whether the exit of every system call on the machine is hooked, for threads without
    /// restartable sequences.
    #[must_use]
    pub fn hooks_every_syscall(&self) -> bool {
        self.every_syscall
    }

    fn attach_all(&mut self) -> Result<(), WaitError> {
        for &(program, tracepoint) in PROGRAMS {
            match self.attach_to(program, tracepoint) {
                // Since 4.18 where the kernel has rseq at all.
                Err(_) if tracepoint == "rseq_update" => self.hook_every_syscall()?,
                other => other?,
            }
        }
        let failed = |source| WaitError::Program { program: "on_task", source };
        let iterator: &mut Iter = program(&mut self.bpf, "on_task")?;
        iterator.load("task", &self.btf).map_err(failed)
    }

    fn attach_to(&mut self, name: &'static str, tracepoint: &str) -> Result<(), WaitError> {
        load_program(&mut self.bpf, &self.btf, name, tracepoint)?;
        let found: &mut BtfTracePoint = program(&mut self.bpf, name)?;
        found.attach().map_err(|source| WaitError::Program { program: name, source })?;
        Ok(())
    }

    fn hook_every_syscall_if_needed(&mut self, seen: &WaitCounters) -> Result<(), WaitError> {
        // Sampled, and nothing ever came: the hook is there and does not work.
        let mute = seen.picked + seen.wakes_picked > 20 && seen.emitted == 0;
        if seen.no_rseq > 0 || mute {
            self.hook_every_syscall()?;
        }
        Ok(())
    }

    fn hook_every_syscall(&mut self) -> Result<(), WaitError> {
        if !self.every_syscall {
            self.attach_to("on_sys_exit", "sys_exit")?;
            self.every_syscall = true;
        }
        Ok(())
    }

    /// Lets the iterator go over all threads, and gives what it wrote.
    fn iterate(&mut self) -> Result<Vec<u8>, WaitError> {
        let failed = |source| WaitError::Program { program: "on_task", source };
        let broken = |e: aya::programs::links::LinkError| WaitError::Map {
            map: "task iterator",
            source: io::Error::other(e),
        };
        let iterator: &mut Iter = program(&mut self.bpf, "on_task")?;
        let id = iterator.attach().map_err(failed)?;
        let link = iterator.take_link(id).map_err(failed)?;
        let mut bytes = Vec::new();
        link.into_file()
            .map_err(broken)?
            .take(MAX_LISTING)
            .read_to_end(&mut bytes)
            .map_err(|source| WaitError::Map { map: "task iterator", source })?;
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
        let map = self.bpf.map_mut("settings").ok_or_else(|| absent("settings"))?;
        let failed = |e| WaitError::Map { map: "settings", source: io::Error::other(e) };
        let mut map = Array::<_, Settings>::try_from(map).map_err(failed)?;
        map.set(0, self.settings, 0).map_err(failed)
    }

    /// Makes room in the table of futexes: those without waiters go.
    fn sweep_futexes(&mut self) {
        let Some(map) = self.bpf.map_mut("futexes") else { return };
        let Ok(mut map) = HashMap::<_, [u64; 2], [u32; 6]>::try_from(map) else { return };
        let unused =
            |(key, [_lock, waiters, ..]): ([u64; 2], [u32; 6])| (waiters == 0).then_some(key);
        let keys: Vec<_> = map.iter().flatten().filter_map(unused).collect();
        for key in keys {
            // Gone already is as good.
            let _ = map.remove(&key);
        }
    }
}

fn load(object: &[u8], btf: &Btf) -> Result<Ebpf, WaitError> {
    // Task storage is known to the kernel, if not to the library.
    Ok(EbpfLoader::new().btf(Some(btf)).allow_unsupported_maps().load(object)?)
}

/// The programs that follow chains, of which those that do are in the kernel: whether it takes them
/// is known before anything is attached.
fn load_with_chains(btf: &Btf) -> Result<(Ebpf, Chains), WaitError> {
    let mut bpf = load(OBJECT_WITH_CHAINS, btf)?;
    load_program(&mut bpf, btf, "on_waking", "sched_waking")?;
    load_program(&mut bpf, btf, "on_rseq", "rseq_update")
        .or_else(|_| load_program(&mut bpf, btf, "on_sys_exit", "sys_exit"))?;
    let chains = Chains::of(&mut bpf)?;
    Ok((bpf, chains))
}

/// Has the kernel take a program, unless it has.
fn load_program(
    bpf: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<(), WaitError> {
    let found: &mut BtfTracePoint = program(bpf, name)?;
    if found.fd().is_ok() {
        return Ok(());
    }
    found.load(tracepoint, btf).map_err(|source| WaitError::Program { program: name, source })
}

/// Nobody knows yet what is going to be wanted: who waits for a futex is noted for the case.
fn settings(options: &WaitOptions) -> Settings {
    let children = if options.children { flags::CHILDREN } else { 0 };
    let flags = flags::WANT_MUTEX | children;
    Settings { flags, pid_level: own_pid_level(), ..Settings::default() }
}

fn absent(map: &'static str) -> WaitError {
    WaitError::Map { map, source: io::ErrorKind::NotFound.into() }
}

fn map<'a>(bpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, WaitError> {
    match bpf.map(name) {
        Some(Map::Unsupported(data) | Map::PerfEventArray(data)) => Ok(data.fd().as_fd()),
        _ => Err(absent(name)),
    }
}

fn program<'a, T>(bpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, WaitError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let found = bpf.program_mut(name).ok_or_else(|| absent(name))?;
    found.try_into().map_err(|source| WaitError::Program { program: name, source })
}

#[cfg(test)]
mod tests {
    use super::WaitWants;

    #[test]
    fn wants_of_several() {
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

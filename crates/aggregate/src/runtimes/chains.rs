//! Chains of frames that runtimes keep in their heaps, followed by a BPF program in the moment of a
//! sample ([`events::Chains`]), and waiting here for it.
//!
//! Chain and sample arrive in different ways and belong together by thread and time: those of a
//! sampling event are written in the same interrupt, and a sample of waiting has its chain's time.
//! Of a thread that stands still, the same chain is read from memory.

use std::collections::VecDeque;

use events::{BpfError, Chain, ChainEnd, ChainFrame, ChainLayout, Chains, SampleProgram};
use process::ProcessMemory;
use rustc_hash::FxHashMap;

use super::walk;
use crate::ids::{RuntimeIndex, ThreadId};

/// A chain and its sample are written in one interrupt; a hypervisor may take the CPU away
/// between them, but seldom for long. Half the shortest period that one would sample with.
const MAX_APART_NS: u64 = 50_000;
/// Chains of a thread that wait for their samples.
const MAX_WAITING: usize = 16_384;
/// Threads of a process whose chains wait.
const MAX_THREADS: usize = 65_536;

/// The chain of a sample.
#[derive(Debug)]
pub struct OwnedChain {
    time: u64,
    /// Why it ends.
    pub end: ChainEnd,
    /// Its frames, innermost first.
    pub frames: Vec<ChainFrame>,
}

/// Which of its thread's chains belongs to a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichChain {
    /// That of about this time, of the same interrupt.
    Near(u64),
    /// That of this time.
    At(u64),
    /// None was followed.
    None,
}

/// A process whose chains are followed.
pub(super) struct Followed {
    pub runtime: RuntimeIndex,
    layout: ChainLayout,
    waiting: FxHashMap<i32, VecDeque<OwnedChain>>,
    /// Whether any chain has come yet.
    has_chains: bool,
}

/// Samples of one runtime that lack their chains.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Missing {
    /// The process was not followed yet.
    pub fresh: u64,
    /// The chain has not arrived.
    pub unmatched: u64,
}

/// All chains of a recording.
#[derive(Default)]
pub(super) struct ChainQueues {
    chains: Option<Chains>,
    by_pid: FxHashMap<i32, Followed>,
    /// By runtime.
    pub missing: FxHashMap<RuntimeIndex, Missing>,
}

impl ChainQueues {
    /// Follows the chains of a process, now if programs run that do so, or as soon as they do.
    pub fn follow(
        &mut self,
        pid: i32,
        runtime: RuntimeIndex,
        layout: ChainLayout,
    ) -> Result<(), BpfError> {
        if let Some(chains) = &mut self.chains {
            chains.follow(pid, &layout)?;
        }
        let waiting = FxHashMap::default();
        self.by_pid.insert(pid, Followed { runtime, layout, waiting, has_chains: false });
        Ok(())
    }

    pub fn forget(&mut self, pid: i32) {
        if self.by_pid.remove(&pid).is_some()
            && let Some(chains) = &mut self.chains
        {
            chains.forget(pid);
        }
    }

    /// Whether the process has chains to follow.
    pub fn get(&self, pid: i32) -> Option<&Followed> {
        self.by_pid.get(&pid)
    }

    /// The runtimes of all followed processes.
    pub fn runtimes(&self) -> impl Iterator<Item = RuntimeIndex> {
        self.by_pid.values().map(|f| f.runtime)
    }

    /// Loads the program for sampling events.
    pub fn load(&mut self) -> Result<SampleProgram, BpfError> {
        let chains = Chains::load()?;
        let program = chains.program()?;
        self.follow_by(chains).map(|()| program)
    }

    /// Has chains followed by programs that run already.
    pub fn follow_by(&mut self, mut chains: Chains) -> Result<(), BpfError> {
        let followed = self.by_pid.iter().map(|(pid, f)| chains.follow(*pid, &f.layout));
        let done = followed.fold(Ok(()), Result::and);
        self.chains = Some(chains);
        done
    }

    /// No program follows them.
    pub fn refuse(&mut self) {
        self.chains = None;
    }

    /// Chains that found no room.
    pub fn lost(&self) -> u64 {
        self.chains.as_ref().map_or(0, Chains::lost)
    }

    /// Reads what has come.
    pub fn drain(&mut self) {
        let Some(chains) = &mut self.chains else { return };
        chains.drain(|chain| {
            if let Some(followed) = self.by_pid.get_mut(&chain.pid) {
                followed.add(chain);
            }
        });
    }

    /// The chain of a sample.
    pub fn take(&mut self, id: ThreadId, which: WhichChain) -> Option<OwnedChain> {
        self.chains.as_ref()?;
        let mut chain = self.by_pid.get_mut(&id.pid)?.take(id.tid, which);
        if chain.is_none() && which != WhichChain::None {
            self.drain();
            chain = self.by_pid.get_mut(&id.pid)?.take(id.tid, which);
        }
        if chain.is_none() {
            let followed = self.by_pid.get(&id.pid)?;
            let missing = self.missing.entry(followed.runtime).or_default();
            if followed.has_chains && which != WhichChain::None {
                missing.unmatched += 1;
            } else {
                missing.fresh += 1;
            }
        }
        chain
    }

    /// The chain of a thread that stands still, by its thread pointer.
    pub fn read(&self, pid: i32, memory: &ProcessMemory, pointer: u64) -> Option<OwnedChain> {
        let (end, frames) = walk::chain(memory, &self.by_pid.get(&pid)?.layout, pointer);
        Some(OwnedChain { time: 0, end, frames })
    }
}

impl Followed {
    fn add(&mut self, chain: &Chain<'_>) {
        self.has_chains = true;
        if self.waiting.len() > MAX_THREADS {
            self.waiting.clear();
        }
        let waiting = self.waiting.entry(chain.tid).or_default();
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
        }
        let (time, end) = (chain.time, chain.end);
        waiting.push_back(OwnedChain { time, end, frames: chain.frames().collect() });
    }

    fn take(&mut self, tid: i32, which: WhichChain) -> Option<OwnedChain> {
        let (time, apart_at_most) = match which {
            WhichChain::Near(time) => (time, MAX_APART_NS),
            WhichChain::At(time) => (time, 0),
            WhichChain::None => return None,
        };
        let waiting = self.waiting.get_mut(&tid)?;
        while let Some(first) = waiting.front() {
            if first.time + apart_at_most >= time {
                break;
            }
            waiting.pop_front();
        }
        let apart = |c: &OwnedChain| c.time.abs_diff(time);
        while let (Some(first), Some(second)) = (waiting.front(), waiting.get(1)) {
            if apart(second) >= apart(first) {
                break;
            }
            waiting.pop_front();
        }
        if waiting.front().is_some_and(|c| apart(c) <= apart_at_most) {
            return waiting.pop_front();
        }
        None
    }
}

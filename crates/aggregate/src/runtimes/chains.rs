//! Matches samples with the chains of frames that runtimes keep in their heaps. A BPF program
//! follows a chain at the moment of a sample ([`events::Chains`]), and it is queued here until the
//! sample is read.
//!
//! Chains and samples arrive in different buffers and are matched by thread and time. For a
//! sampling event, both are written in the same interrupt; the sample of a wait has the same time
//! as its chain. If a thread does not run, its chain is read from memory instead.

use std::collections::VecDeque;

use events::{BpfError, Chain, ChainEnd, ChainFrame, ChainLayout, Chains, SampleProgram};
use process::ProcessMemory;
use rustc_hash::FxHashMap;

use super::walk;
use crate::ids::{RuntimeIndex, ThreadId};

/// Maximum time between a chain and its sample, in nanoseconds: half the shortest practical
/// sampling period. Both are written in one interrupt; a hypervisor may take the CPU away between
/// them, but rarely for long.
const MAX_APART_NS: u64 = 50_000;
/// Maximum number of queued chains per thread.
const MAX_WAITING: usize = 16_384;
/// Maximum number of threads per process that have queued chains.
const MAX_THREADS: usize = 65_536;

/// The chain of a sample.
#[derive(Debug)]
pub struct OwnedChain {
    time: u64,
    /// Why the chain ends.
    pub end: ChainEnd,
    /// The frames, innermost first.
    pub frames: Vec<ChainFrame>,
}

/// Which of the thread's chains belongs to a sample. Times are CLOCK_MONOTONIC in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichChain {
    /// The chain from about this time, written in the same interrupt.
    Near(u64),
    /// The chain with exactly this time.
    At(u64),
    /// No chain was followed.
    None,
}

/// A process whose chains are followed.
pub(super) struct FollowedProcess {
    pub runtime: RuntimeIndex,
    layout: ChainLayout,
    waiting: FxHashMap<i32, VecDeque<OwnedChain>>,
    /// Whether any chain has arrived yet.
    has_chains: bool,
}

/// How many samples of one runtime have no chain.
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
    by_pid: FxHashMap<i32, FollowedProcess>,
    /// Samples without a chain, by runtime.
    pub missing: FxHashMap<RuntimeIndex, Missing>,
}

impl ChainQueues {
    /// Follows the chains of a process: now if the BPF programs are loaded, otherwise as soon as
    /// they are.
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
        self.by_pid.insert(pid, FollowedProcess { runtime, layout, waiting, has_chains: false });
        Ok(())
    }

    pub fn forget(&mut self, pid: i32) {
        if self.by_pid.remove(&pid).is_some()
            && let Some(chains) = &mut self.chains
        {
            chains.forget(pid);
        }
    }

    /// The state of a process, if its chains are followed.
    pub fn get(&self, pid: i32) -> Option<&FollowedProcess> {
        self.by_pid.get(&pid)
    }

    /// The runtimes of all followed processes.
    pub fn runtimes(&self) -> impl Iterator<Item = RuntimeIndex> {
        self.by_pid.values().map(|f| f.runtime)
    }

    /// Loads the BPF program for sampling events.
    pub fn load(&mut self) -> Result<SampleProgram, BpfError> {
        let chains = Chains::load()?;
        let program = chains.program()?;
        self.follow_by(chains).map(|()| program)
    }

    /// Uses BPF programs that are already running to follow chains.
    pub fn follow_by(&mut self, mut chains: Chains) -> Result<(), BpfError> {
        let followed = self.by_pid.iter().map(|(pid, f)| chains.follow(*pid, &f.layout));
        let done = followed.fold(Ok(()), Result::and);
        self.chains = Some(chains);
        done
    }

    /// Stops following chains, because no BPF program can run.
    pub fn refuse(&mut self) {
        self.chains = None;
    }

    /// The number of chains lost because the buffer was full.
    pub fn lost(&self) -> u64 {
        self.chains.as_ref().map_or(0, Chains::lost)
    }

    /// Queues the chains that have arrived.
    pub fn drain(&mut self) {
        let Some(chains) = &mut self.chains else { return };
        chains.drain(|chain| {
            if let Some(followed) = self.by_pid.get_mut(&chain.pid) {
                followed.add(chain);
            }
        });
    }

    /// Takes the chain of a sample from the queue.
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

    /// Reads the chain of a thread that does not run, given its thread pointer.
    pub fn read(&self, pid: i32, memory: &ProcessMemory, pointer: u64) -> Option<OwnedChain> {
        let (end, frames) = walk::chain(memory, &self.by_pid.get(&pid)?.layout, pointer);
        Some(OwnedChain { time: 0, end, frames })
    }
}

impl FollowedProcess {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(times: &[u64]) -> FollowedProcess {
        let chain = |&time: &u64| OwnedChain { time, end: ChainEnd::Complete, frames: Vec::new() };
        FollowedProcess {
            runtime: 0,
            layout: ChainLayout::default(),
            waiting: [(1, times.iter().map(chain).collect())].into_iter().collect(),
            has_chains: true,
        }
    }

    fn taken(of: &mut FollowedProcess, tid: i32, which: WhichChain) -> Option<u64> {
        of.take(tid, which).map(|c| c.time)
    }

    #[test]
    fn a_sample_takes_the_nearest_chain_and_drops_older_ones() {
        let times = [1, 2, 2 + MAX_APART_NS, 10 * MAX_APART_NS].map(|t| t + 1_000_000);
        let mut p = followed(&times);
        assert_eq!(taken(&mut p, 2, WhichChain::Near(times[0])), None);
        assert_eq!(taken(&mut p, 1, WhichChain::None), None);
        assert_eq!(taken(&mut p, 1, WhichChain::Near(times[2] - 1)), Some(times[2]));
        assert_eq!(taken(&mut p, 1, WhichChain::Near(times[3] - MAX_APART_NS - 1)), None);
        assert_eq!(taken(&mut p, 1, WhichChain::Near(times[3] - MAX_APART_NS)), Some(times[3]));
        assert!(p.waiting[&1].is_empty());
    }

    #[test]
    fn processes_are_followed_until_they_are_forgotten() {
        let mut queues = ChainQueues::default();
        queues.follow(7, 2, ChainLayout::default()).expect("no BPF program runs");
        queues.forget(8);
        assert_eq!(queues.get(7).map(|f| f.runtime), Some(2));
        assert!(queues.runtimes().eq([2]));
        queues.forget(7);
        assert!(queues.get(7).is_none());
    }

    #[test]
    fn a_wait_takes_the_chain_of_its_time_only() {
        let mut p = followed(&[10, 20]);
        assert_eq!(taken(&mut p, 1, WhichChain::At(19)), None);
        assert_eq!(taken(&mut p, 1, WhichChain::At(20)), Some(20));
        assert_eq!(taken(&mut followed(&[10]), 1, WhichChain::Near(10 + MAX_APART_NS)), Some(10));
        assert_eq!(taken(&mut followed(&[10]), 1, WhichChain::Near(11 + MAX_APART_NS)), None);
    }
}

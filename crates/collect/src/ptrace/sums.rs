//! What is counted at each tick.

use aggregate::ids::{LabelsIndex, NodeIndex, ThreadIndex};

/// What the samples are to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Threads that run.
    Cpu,
    /// All threads.
    Wall,
}

/// Samples of one thread, stack and state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub samples: u64,
    /// Time between the ticks that they were taken at and those before.
    pub ns: u64,
}

/// Where a thread was, with which labels of its goroutine, and in what state (an index of
/// [`super::ticks::Ticker::states`]).
pub(super) type Stand = (NodeIndex, LabelsIndex, usize);

/// Thread and stand.
pub(super) type Key = (ThreadIndex, Stand);

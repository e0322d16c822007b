//! Defines how samples are added up: by thread, stack and state.

use aggregate::ids::{LabelsIndex, NodeIndex, ThreadIndex};

/// Which threads are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Running threads.
    Cpu,
    /// All threads.
    Wall,
}

/// The samples of one thread, stack and state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub samples: u64,
    /// Nanoseconds between the ticks of these samples and the ticks before them.
    pub ns: u64,
}

/// The stack of a thread, the labels of its goroutine, and its state (an index into
/// [`super::ticks::Ticker::states`]).
pub(super) type Observation = (NodeIndex, LabelsIndex, usize);

/// What samples are added up by.
pub(super) type Key = (ThreadIndex, Observation);

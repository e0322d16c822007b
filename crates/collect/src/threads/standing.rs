//! A thread of a dump.

use aggregate::ids::NodeIndex;
use aggregate::processes::NamedThread;

use super::locks_held::Held;

/// A thread with its stack.
pub(super) struct Standing {
    pub thread: NamedThread,
    pub state: String,
    pub stack: NodeIndex,
    pub waits_for: Option<Held>,
}

//! Defines a thread of a dump: its name, state and stack.

use aggregate::ids::NodeIndex;
use aggregate::processes::NamedThread;

use super::locks_held::HeldLock;

/// A thread with its state and its stack.
pub(super) struct DumpedThread {
    pub thread: NamedThread,
    pub state: String,
    pub stack: NodeIndex,
    pub waits_for: Option<HeldLock>,
}

//! What the parts of a recording call the same things by: threads, frames, stacks, labels,
//! functions.

use std::sync::Arc;

use image::{Avma, MappingId};

/// A thread in a session: process and thread id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId {
    /// Process (thread group) id, as we see it.
    pub pid: i32,
    /// Thread id, as we see it.
    pub tid: i32,
}

/// A thread under one of its names.
pub type ThreadIndex = u32;

/// A set of labels that a program has set itself; 0 is the empty one.
pub type LabelsIndex = u32;

/// Keys and values.
pub type LabelSet = Arc<[(Arc<str>, Arc<str>)]>;

/// A language runtime: its row in the recorder's table.
pub type RuntimeIndex = u8;

/// Where a frame's address belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In a mapping of a target; the address is an [`Avma`].
    User(MappingId),
    /// In a function of a language runtime, which names it.
    Runtime {
        /// The runtime.
        runtime: RuntimeIndex,
        /// The mapping that the address, an [`Avma`], lies in; none for functions that lie at no
        /// address.
        mapping: Option<MappingId>,
        /// The runtime's number of it.
        index: u32,
    },
    /// In executable memory of the target that no mapping accounts for.
    Unmapped,
    /// In the kernel.
    Kernel,
    /// No code at all: the address is an index into the session's table of markers.
    Marker,
}

/// A frame: the address to look up (a return address is already one less).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKey {
    /// What the address refers to.
    pub place: Place,
    /// The address.
    pub address: Avma,
}

/// A frame's index in the tree's table of frames.
pub type FrameIndex = u32;

/// A stack: the node of its leaf.
pub type NodeIndex = u32;

/// The node that is no frame, above all roots.
pub const ROOT: NodeIndex = 0;

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountKey {
    /// The thread, under the name that it had.
    pub thread: ThreadIndex,
    /// The stack.
    pub stack: NodeIndex,
    /// The labels that the program has set.
    pub labels: LabelsIndex,
}

/// What was counted for one thread and stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Samples.
    pub samples: u64,
    /// Their weight before it is turned into CPU time: periods of the clock, or cycles.
    pub weight: u64,
}

/// One function at a frame's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name, demangled.
    pub name: Arc<str>,
    /// Its name as the linker or the runtime has it.
    pub system_name: Arc<str>,
    /// The source file.
    pub file: Option<Arc<str>>,
    /// The line that the address belongs to; 0 where it is not known.
    pub line: u32,
    /// The column in it; 0 where it is not known.
    pub column: u32,
    /// The line that the function begins at; 0 where it is not known.
    pub start_line: u32,
}

impl Function {
    /// A function of which only the name is known.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self { system_name: name.clone(), name, file: None, line: 0, column: 0, start_line: 0 }
    }
}

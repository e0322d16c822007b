//! Defines shared identifiers of a recording: threads, frames, stacks, label sets and functions.

use std::sync::Arc;

use image::{Avma, MappingId};

/// Identifies a thread by its PID and TID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId {
    /// Process (thread group) ID in our PID namespace.
    pub pid: i32,
    /// Thread ID in our PID namespace.
    pub tid: i32,
}

/// Index of a thread under one of its names: see [`crate::processes::NamedThread`].
pub type ThreadIndex = u32;

/// Index of a set of labels that a program has set; 0 is the empty set.
pub type LabelsIndex = u32;

/// Labels that a program has set, as keys and values.
pub type LabelSet = Arc<[(Arc<str>, Arc<str>)]>;

/// A language runtime, as the index of its row in the recorder's table of runtimes.
pub type RuntimeIndex = u8;

/// What a frame's address refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Code in a mapping of a target; the address is an [`Avma`].
    User(MappingId),
    /// A function that a language runtime names.
    Runtime {
        /// The runtime.
        runtime: RuntimeIndex,
        /// The mapping that contains the address (an [`Avma`]); `None` for functions without an
        /// address.
        mapping: Option<MappingId>,
        /// The number that the runtime gave the function: see
        /// [`crate::runtimes::Runtime::functions`].
        index: u32,
    },
    /// Code in executable memory of the target for which no mapping is known.
    Unmapped,
    /// Kernel code; the address is a kernel address.
    Kernel,
    /// Not code; the address is an index into [`crate::recorder::Recorder::markers`].
    Marker,
}

/// A frame, identified by the address to look up (return addresses are already decremented by 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKey {
    /// What the address refers to.
    pub place: Place,
    /// The address.
    pub address: Avma,
}

/// Index of a frame in the table of frames of [`crate::contexts::StackTree`].
pub type FrameIndex = u32;

/// Index of a node of [`crate::contexts::StackTree`]; stands for the stack whose leaf it is.
pub type NodeIndex = u32;

/// The root of the tree, which is not a frame; outermost frames are its children.
pub const ROOT: NodeIndex = 0;

/// Samples with the same key are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountKey {
    /// The thread, under the name that it had at the time.
    pub thread: ThreadIndex,
    /// The stack.
    pub stack: NodeIndex,
    /// The labels that the program has set.
    pub labels: LabelsIndex,
}

/// What was counted under one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of samples.
    pub samples: u64,
    /// Their total weight before it is converted to CPU time: clock periods, or cycles.
    pub weight: u64,
}

/// One of the functions at a frame's address: the function itself, or one inlined into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The demangled name.
    pub name: Arc<str>,
    /// The name as the linker or the runtime knows it.
    pub system_name: Arc<str>,
    /// The source file, if known.
    pub file: Option<Arc<str>>,
    /// The source line of the address; 0 if unknown.
    pub line: u32,
    /// The column in that line; 0 if unknown.
    pub column: u32,
    /// The line at which the function begins; 0 if unknown.
    pub start_line: u32,
}

impl Function {
    /// A function of which only the name is known.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self { system_name: name.clone(), name, file: None, line: 0, column: 0, start_line: 0 }
    }
}

//! The table of profile kinds. Commands, the server's index and the help iterate it; a new kind
//! is a file of its own and a row here.

use crate::session::{Collector, Request};
use crate::{RecordError, allocs, block, cpu, goroutine, heap, mutex, threadcreate};

/// One kind of profile.
pub struct Kind {
    /// Its name on the command line, in file names and as an endpoint.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Attaches to the targets for it. [`RecordError::NotApplicable`] where the kind does not fit
    /// them.
    pub prepare: fn(&Request<'_>) -> Result<Box<dyn Collector>, RecordError>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "cpu",
        about: "where CPU time is spent, in user code and in the kernel",
        prepare: cpu::prepare,
    },
    Kind {
        name: "heap",
        about: "what memory is in use, by where it was allocated",
        prepare: heap::prepare,
    },
    Kind { name: "allocs", about: "what memory was allocated", prepare: allocs::prepare },
    Kind {
        name: "block",
        about: "where threads or goroutines wait: for each other, for time, for input and output",
        prepare: block::prepare,
    },
    Kind { name: "mutex", about: "who holds locks that others wait for", prepare: mutex::prepare },
    Kind { name: "goroutine", about: "where each goroutine is now", prepare: goroutine::prepare },
    Kind {
        name: "threadcreate",
        about: "where threads were created",
        prepare: threadcreate::prepare,
    },
];

/// The kind of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

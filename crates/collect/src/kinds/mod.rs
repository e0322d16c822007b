//! The table of profile kinds. Commands, the server's index and the help iterate it; a new kind
//! is a file of its own and a row here.

mod allocs;
mod block;
mod goroutine;
mod heap;
mod mutex;
mod threadcreate;
mod wall;

use host::rights::Obstacle;

use crate::collector::{Collector, Request};
use crate::doctor::Patient;
use crate::outcome::RecordError;
use crate::perf::cpu;

/// One kind of profile.
pub struct Kind {
    /// Its name on the command line, in file names and as an endpoint.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Attaches to the targets for it. [`RecordError::NotApplicable`] where the kind does not fit
    /// them.
    pub prepare: fn(&Request<'_>) -> Result<Box<dyn Collector>, RecordError>,
    /// Whether our rights and the machine allow it: how it is recorded, or what stands in the way.
    pub check: fn(&Patient) -> Result<String, Obstacle>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "cpu",
        about: "where CPU time is spent, in user code and in the kernel",
        prepare: cpu::prepare,
        check: Patient::cpu,
    },
    Kind {
        name: "wall",
        about: "where threads spend their time, also waiting",
        prepare: wall::prepare,
        check: Patient::stop,
    },
    Kind {
        name: "heap",
        about: "what memory is in use, by where it was allocated",
        prepare: heap::prepare,
        check: Patient::allocations,
    },
    Kind {
        name: "allocs",
        about: "what memory was allocated",
        prepare: allocs::prepare,
        check: Patient::allocations,
    },
    Kind {
        name: "block",
        about: "where threads wait: for each other, for time, for input and output",
        prepare: block::prepare,
        check: Patient::waits,
    },
    Kind {
        name: "mutex",
        about: "who holds locks that others wait for",
        prepare: mutex::prepare,
        check: Patient::waits,
    },
    Kind {
        name: "goroutine",
        about: "where each goroutine, or thread, is now",
        prepare: goroutine::prepare,
        check: Patient::stacks_now,
    },
    Kind {
        name: "threadcreate",
        about: "where threads were created",
        prepare: threadcreate::prepare,
        check: Patient::creations,
    },
];

/// The kind of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

//! The table of profile kinds. Commands, the server's index and the help iterate it; a new kind
//! is a file of its own and a row here.

use crate::session::{Collector, Request};
use crate::{RecordError, cpu};

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
pub const KINDS: &[Kind] = &[Kind {
    name: "cpu",
    about: "where CPU time is spent, in user code and in the kernel",
    prepare: cpu::prepare,
}];

/// The kind of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

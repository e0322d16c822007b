//! The table of profile kinds. Commands, the server's index and the help iterate it; a new kind
//! is a file of its own and a row here.

use std::sync::Arc;

use target::Process;

use crate::session::{RecordOptions, Watcher};
use crate::{Outcome, RecordError, cpu};

/// One kind of profile.
pub struct Kind {
    /// Its name on the command line, in file names and as an endpoint.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Records it.
    pub record: Recorder,
}

/// Records one profile of running processes.
pub type Recorder =
    fn(&[Arc<Process>], &RecordOptions, &mut dyn Watcher) -> Result<Outcome, RecordError>;

/// All kinds.
pub const KINDS: &[Kind] = &[Kind {
    name: "cpu",
    about: "where CPU time is spent, in user code and in the kernel",
    record: cpu::record,
}];

/// The kind of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

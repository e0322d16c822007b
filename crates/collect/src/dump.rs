//! Every thread's, or goroutine's, stack at one moment.

use std::sync::Arc;

use pprof::Profile;
use process::Process;

use crate::{RecordError, RecordOptions, Stats, go, native};

/// What was seen, in three forms.
#[derive(Debug)]
pub struct Dump {
    /// The goroutine profile.
    pub profile: Profile,
    /// What it is made of.
    pub stats: Stats,
    /// One after the other, as Go's `debug=2` prints them.
    pub text: String,
    /// Equal stacks together, as Go's `debug=1` prints them.
    pub grouped: String,
}

/// Dumps a process.
///
/// # Errors
/// [`RecordError`], where it cannot be read.
pub fn of(process: &Arc<Process>, options: &RecordOptions) -> Result<Dump, RecordError> {
    if let Some(dump) = go::dump(process, options)? {
        return Ok(dump);
    }
    native::dump::dump(process, options)
}

//! Dumps the current stack of every thread or goroutine of a process.

use std::sync::Arc;

use process::Process;

use crate::options::RecordOptions;
use crate::outcome::{Dump, RecordError};
use crate::{go, threads};

/// Dumps the goroutines of a Go program, or the threads of another process.
///
/// # Errors
/// [`RecordError`] if the process cannot be read.
pub fn of(process: &Arc<Process>, options: &RecordOptions) -> Result<Dump, RecordError> {
    if let Some(dump) = go::dump(process, options)? {
        return Ok(dump);
    }
    threads::dump::dump(process, options)
}

//! Every thread's, or goroutine's, stack at one moment.

use std::sync::Arc;

use process::Process;

use crate::options::RecordOptions;
use crate::outcome::{Dump, RecordError};
use crate::{go, threads};

/// Dumps a process.
///
/// # Errors
/// [`RecordError`], where it cannot be read.
pub fn of(process: &Arc<Process>, options: &RecordOptions) -> Result<Dump, RecordError> {
    if let Some(dump) = go::dump(process, options)? {
        return Ok(dump);
    }
    threads::dump::dump(process, options)
}

//! How many stacks there are now, without taking a profile.

use std::sync::Arc;

use target::Process;

use crate::{RecordError, RecordOptions, go};

/// The goroutines of a Go program, or else the threads of a process: what a goroutine profile of
/// it adds up to. Nothing is stopped for it.
///
/// # Errors
/// [`RecordError`], where a Go program's state cannot be read.
pub fn stack_count(process: &Arc<Process>) -> Result<u64, RecordError> {
    let Some(dump) = go::dump(process, &RecordOptions::default())? else {
        // A process without threads has exited.
        return Ok(process.threads().map_or(0, |threads| threads.len() as u64));
    };
    let each = dump.profile.samples.iter().map(|s| s.values.first().copied().unwrap_or(0));
    Ok(each.map(|n| u64::try_from(n).unwrap_or(0)).sum())
}

//! How many stacks there are now, without taking a profile.

use std::sync::Arc;

use process::Process;

use crate::go;
use crate::options::RecordOptions;
use crate::outcome::RecordError;

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

/// What a threadcreate profile of the process adds up to: the threads that a Go program's runtime
/// knows, or else all but the first of the process, which nobody created as a thread.
///
/// # Errors
/// [`RecordError`], where a Go program's state cannot be read.
pub fn thread_count(process: &Arc<Process>) -> Result<u64, RecordError> {
    let Some(program) = go::Program::open(process)? else {
        return Ok(process.threads().map_or(0, |threads| (threads.len() as u64).saturating_sub(1)));
    };
    let threads = program.runtime.threads(&program.memory).map_err(|e| program.error(e))?;
    Ok(threads.len() as u64)
}

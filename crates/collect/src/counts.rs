//! Counts the current goroutines and threads of a process without taking a profile.

use std::sync::Arc;

use process::Process;

use crate::go;
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// The number of goroutines in a Go program, or of threads in another process. This is the total of
/// its goroutine profile. No thread is stopped.
///
/// # Errors
/// [`RecordError`] if a Go program's state cannot be read.
pub fn stack_count(process: &Arc<Process>) -> Result<u64, RecordError> {
    let Some(dump) = go::dump(process, &RecordOptions::default())? else {
        // If the threads cannot be listed, the process has exited.
        return Ok(process.threads().map_or(0, |threads| threads.len() as u64));
    };
    let each = dump.profile.samples.iter().map(|s| s.values.first().copied().unwrap_or(0));
    Ok(each.map(|n| u64::try_from(n).unwrap_or(0)).sum())
}

/// The total of a threadcreate profile of the process: the number of threads that a Go program's
/// runtime knows, or of all threads of another process except its main thread, which was not
/// created as a thread.
///
/// # Errors
/// [`RecordError`] if a Go program's state cannot be read.
pub fn thread_count(process: &Arc<Process>) -> Result<u64, RecordError> {
    let Some(program) = go::Program::open(process)? else {
        return Ok(process.threads().map_or(0, |threads| (threads.len() as u64).saturating_sub(1)));
    };
    let threads = program.runtime.threads(&program.memory).map_err(|e| program.error(e))?;
    Ok(threads.len() as u64)
}

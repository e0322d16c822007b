//! Switches a Go program's sampling on for a recording, and off again after it.
//!
//! ```text
//!   the program's rate is not 0 ────────────────► Own       left unchanged
//!   0, and no other exoprof has set it ─► write ─► Held      restored at the end
//!   another exoprof has set it ─────────────────► Another   taken over when that one ends
//! ```

use std::sync::{Arc, Mutex, PoisonError, Weak};

use goruntime::{Refusal, WritePermit};
use process::seize::{Threads, Tracer};
use process::{Claimed, HeldWord};

use super::program::Program;
use crate::outcome::RecordError;

/// Who has set a sampling rate.
#[derive(Debug, Clone)]
pub(crate) enum Setter {
    /// The program itself. Its value is left unchanged.
    Own(u64),
    /// This process. Several of its recordings may share the rate.
    Held(Arc<HeldRate>),
    /// Another exoprof.
    Another,
}

/// A rate that we have set in a program. The old one is restored when the last reference is
/// dropped.
#[derive(Debug)]
pub(crate) struct HeldRate {
    /// The rate.
    pub rate: u64,
    _word: HeldWord,
}

type Key = (i32, u64, Claimed);

/// The rates that this process has set, so that simultaneous recordings of several kinds share
/// them.
static HELD: Mutex<Vec<(Key, Weak<HeldRate>)>> = Mutex::new(Vec::new());

/// A sampling rate to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateRequest {
    pub what: Claimed,
    pub rate: u64,
    /// Never stop the program, not even briefly.
    pub no_stop: bool,
}

/// Sets a rate, unless the program or another exoprof has set one.
pub(crate) fn set(program: &Program, request: RateRequest) -> Result<Setter, RecordError> {
    let process = &program.process;
    let key = (process.pid(), process.start_time(), request.what);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|(_, rate)| rate.strong_count() > 0);
    if let Some(rate) = held.iter().find(|(k, _)| *k == key).and_then(|(_, r)| r.upgrade()) {
        return Ok(Setter::Held(rate));
    }
    let pid = process.pid();
    let claim = process.claim(request.what).map_err(|error| RecordError::Memory { pid, error })?;
    let Some(claim) = claim else { return Ok(Setter::Another) };
    let permit = permit(program, request.what).map_err(|e| refused(pid, &e))?;
    if permit.current() != 0 {
        return Ok(Setter::Own(permit.current()));
    }
    let memory = match &program.writable {
        Ok(memory) => memory,
        Err(e) => return Err(RecordError::NotApplicable(e.to_string())),
    };
    let patch = permit.patch(request.rate);
    let write = |claim| {
        HeldWord::write(process, memory, patch.address, patch.old, patch.new, Some(claim))
            .map_err(RecordError::from)
    };
    if request.what == Claimed::HeapRate && request.no_stop {
        return Err(RecordError::NotApplicable(format!(
            "process {pid} does not sample its own heap, and switching that on would briefly stop \
             it, which --no-stop forbids; fix: run without --no-stop"
        )));
    }
    let word = match request.what {
        Claimed::HeapRate => while_caches_are_reset(program, request.rate, || write(claim))?,
        _ => write(claim)?,
    };
    let rate = Arc::new(HeldRate { rate: request.rate, _word: word });
    held.push((key, Arc::downgrade(&rate)));
    Ok(Setter::Held(rate))
}

fn permit(program: &Program, what: Claimed) -> Result<WritePermit, Refusal> {
    let (runtime, memory) = (&program.runtime, &program.memory);
    match what {
        Claimed::HeapRate => runtime.heap_rate_permit(memory),
        Claimed::BlockRate => runtime.block_rate_permit(memory),
        Claimed::MutexFraction => runtime.mutex_rate_permit(memory),
    }
}

fn refused(pid: i32, why: &Refusal) -> RecordError {
    RecordError::NotApplicable(format!(
        "process {pid} does not sample by itself, and sampling cannot be switched on: {why}"
    ))
}

/// Stops the program briefly, writes the rate by `write`, and resets the allocation caches to the
/// new rate. Otherwise each cache would add an extra sample.
fn while_caches_are_reset(
    program: &Program,
    rate: u64,
    write: impl FnOnce() -> Result<HeldWord, RecordError> + Send,
) -> Result<HeldWord, RecordError> {
    let pid = program.process.pid();
    let mut random = Random::new();
    let stopped = Tracer::run(|tracer| {
        let seized = tracer.seize(&program.process, Threads::All).map_err(RecordError::Seize)?;
        let reset = program
            .runtime
            .reset_caches(&program.memory, rate, &mut || random.uniform())
            .map_err(|e| refused(pid, &e))?;
        let word = write()?;
        if let Ok(memory) = &program.writable {
            for patch in &reset.patches {
                // This fails if a thread did not stop and has moved on: its cache adds at most one
                // sample.
                let _ = memory.replace(patch.address, patch.old, patch.new);
            }
        }
        seized.release();
        Ok(word)
    });
    stopped.map_err(|error| RecordError::Memory { pid, error })?
}

/// A xorshift64* generator, seeded by the clock. The distances to the next samples must differ
/// between caches and recordings; nothing else depends on their randomness.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(aggregate::clock::monotonic_now() | 1)
    }

    /// A number in the interval (0, 1].
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 1.0) / (1u64 << 53) as f64
    }
}

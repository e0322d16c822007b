//! Sampling that is switched on for a recording and off again after it.
//!
//! ```text
//!   the program's rate is not 0 ─────────────────────► Own       left as it is
//!   0, and nobody else changes it ─► write, held ────► Held      put back at the end
//!   another exoprof has set it ──────────────────────► Another   taken over when that one ends
//! ```

use std::sync::{Arc, Mutex, PoisonError, Weak};

use goruntime::{Refusal, WritePermit};
use process::seize::{Threads, Tracer};
use process::{Claimed, HeldWord};

use super::program::Program;
use crate::outcome::RecordError;

/// Who sets a rate.
#[derive(Debug, Clone)]
pub(crate) enum Setter {
    /// The program itself: its own value, which is left alone.
    Own(u64),
    /// We; also several recordings of ours together.
    Held(Arc<HeldRate>),
    /// Another exoprof.
    Another,
}

/// A rate of ours in a program. The old one is put back when the last who holds it lets go.
#[derive(Debug)]
pub(crate) struct HeldRate {
    /// The rate.
    pub rate: u64,
    _word: HeldWord,
}

type Key = (i32, u64, Claimed);

/// The rates that this process holds, so that recordings of several kinds at the same time share
/// them.
static HELD: Mutex<Vec<(Key, Weak<HeldRate>)>> = Mutex::new(Vec::new());

/// What is to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub what: Claimed,
    pub rate: u64,
    /// The program must not be stopped for it.
    pub no_stop: bool,
}

/// Sets a rate, unless the program or somebody else has.
pub(crate) fn set(program: &Program, wanted: Wanted) -> Result<Setter, RecordError> {
    let process = &program.process;
    let key = (process.pid(), process.start_time(), wanted.what);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|(_, rate)| rate.strong_count() > 0);
    if let Some(rate) = held.iter().find(|(k, _)| *k == key).and_then(|(_, r)| r.upgrade()) {
        return Ok(Setter::Held(rate));
    }
    let pid = process.pid();
    let claim = process.claim(wanted.what).map_err(|error| RecordError::Memory { pid, error })?;
    let Some(claim) = claim else { return Ok(Setter::Another) };
    let permit = permit(program, wanted.what).map_err(|e| refused(pid, &e))?;
    if permit.current() != 0 {
        return Ok(Setter::Own(permit.current()));
    }
    let memory = match &program.writable {
        Ok(memory) => memory,
        Err(e) => return Err(RecordError::NotApplicable(e.to_string())),
    };
    let patch = permit.patch(wanted.rate);
    let write = |claim| {
        HeldWord::write(process, memory, patch.address, patch.old, patch.new, Some(claim))
            .map_err(RecordError::from)
    };
    if wanted.what == Claimed::HeapRate && wanted.no_stop {
        return Err(RecordError::NotApplicable(format!(
            "process {pid} samples nothing by itself, and would have to be stopped for a moment to \
             make it"
        )));
    }
    let word = match wanted.what {
        Claimed::HeapRate => while_caches_are_reset(program, wanted.rate, || write(claim))?,
        _ => write(claim)?,
    };
    let rate = Arc::new(HeldRate { rate: wanted.rate, _word: word });
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
        "process {pid} samples nothing by itself, and is not changed: {why}"
    ))
}

/// Stops the program for a moment, writes the rate by `write`, and makes the allocation caches
/// follow it: each would add a sample of its own otherwise.
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
                // A thread that did not stop has moved on: its cache adds one sample at most.
                let _ = memory.replace(patch.address, patch.old, patch.new);
            }
        }
        seized.release();
        Ok(word)
    });
    stopped.map_err(|error| RecordError::Memory { pid, error })?
}

/// xorshift64*, seeded by the clock: the distances to the next samples must differ between caches
/// and recordings, and nothing else hangs on them.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(aggregate::clock::monotonic_now() | 1)
    }

    /// From 0 to 1, 0 excluded.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 1.0) / (1u64 << 53) as f64
    }
}

//! The rates of the runtime's sampling: reading them, and what to write to change them.

use image::{Avma, Memory};

use crate::offsets::present;
use crate::raw::words;
use crate::{Patch, ReadError, Refusal, Runtime, Variable, WritePermit};

/// A larger rate is no rate that somebody set: 1 TiB between samples, an hour of ticks.
const MAX_MEM_RATE: u64 = 1 << 40;
const MAX_BLOCK_RATE: u64 = 1 << 44;
const MAX_MUTEX_RATE: u64 = 1 << 32;
/// More processors than GOMAXPROCS allows (`_MaxGomaxprocs` in 1.19; later only memory limits it).
const MAX_PROCESSORS: u64 = 1 << 16;

/// The rates as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// `MemProfileRate`: mean bytes between samples. 0 where no profiling package is linked in.
    pub heap: u64,
    /// `blockprofilerate`, in ticks.
    pub block: u64,
    /// `mutexprofilerate`: one in so many.
    pub mutex: u64,
}

/// What makes the processors' allocation caches follow a new heap rate.
///
/// Each cache holds how many bytes are left to its next sample. Left alone after a change of the
/// rate, each contributes one sample too many, at once. To be written while all threads of the
/// target are stopped: the caches belong to running code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// What to write.
    pub patches: Vec<Patch>,
    /// How many processors have a cache.
    pub caches: usize,
}

impl Runtime {
    /// Reads the rates.
    ///
    /// # Errors
    /// [`ReadError`] when one is not known or readable.
    pub fn rates(&self, memory: &dyn Memory) -> Result<Rates, ReadError> {
        let read = |variable| Ok::<_, ReadError>(memory.read_u64(self.address(variable)?)?);
        Ok(Rates {
            heap: read(Variable::MemProfileRate)?,
            block: read(Variable::BlockProfileRate)?,
            mutex: read(Variable::MutexProfileRate)?,
        })
    }

    /// The permission to change `MemProfileRate`.
    ///
    /// # Errors
    /// [`Refusal`] unless two sources agree on the address and its value is plausible.
    pub fn heap_rate_permit(&self, memory: &dyn Memory) -> Result<WritePermit, Refusal> {
        self.permit(memory, Variable::MemProfileRate, MAX_MEM_RATE)
    }

    /// The permission to change `blockprofilerate`. Only from 0: a change of another rate
    /// mis-scales what was sampled before, so look at [`WritePermit::current`].
    ///
    /// # Errors
    /// As [`Runtime::heap_rate_permit`].
    pub fn block_rate_permit(&self, memory: &dyn Memory) -> Result<WritePermit, Refusal> {
        self.permit(memory, Variable::BlockProfileRate, MAX_BLOCK_RATE)
    }

    /// The permission to change `mutexprofilerate`; as [`Runtime::block_rate_permit`].
    ///
    /// # Errors
    /// As [`Runtime::heap_rate_permit`].
    pub fn mutex_rate_permit(&self, memory: &dyn Memory) -> Result<WritePermit, Refusal> {
        self.permit(memory, Variable::MutexProfileRate, MAX_MUTEX_RATE)
    }

    /// What resets the allocation caches for a heap rate of `rate` bytes (`nextSample` and
    /// `memProfRate` of `mcache`). `uniform` gives numbers from 0 to 1, 0 excluded: the distance
    /// to the next sample is drawn from an exponential distribution (`nextSample` in
    /// runtime/malloc.go). To be called while the target is stopped.
    ///
    /// # Errors
    /// [`Refusal`] unless two sources agree on `allp`, and each processor on the way looks like
    /// one.
    pub fn reset_caches(
        &self,
        memory: &dyn Memory,
        rate: u64,
        uniform: &mut dyn FnMut() -> f64,
    ) -> Result<Reset, Refusal> {
        let variable = Variable::Allp;
        // Its variable is not touched here, but caches that follow no known rate are of no use.
        self.heap_rate_permit(memory)?;
        let allp = self.agreed(variable)?;
        let unreadable = |_| Refusal::Unreadable(variable);
        let implausible = |reason| Refusal::Implausible { variable, reason };
        let slice = words(memory, allp, 3).map_err(unreadable)?;
        let (array, length) = (Avma(slice[0]), slice[1]);
        if length == 0 || length > MAX_PROCESSORS || length > slice[2] {
            return Err(implausible("the number of processors"));
        }
        let mut reset = Reset { patches: Vec::new(), caches: 0 };
        for i in 0..length {
            let p = Avma(memory.read_u64(array.wrapping_add(8 * i)).map_err(unreadable)?);
            let id = memory.read_u32(p.wrapping_add(self.layout.p_id)).map_err(unreadable)?;
            if u64::from(id) != i {
                return Err(implausible("a processor's number is not its place"));
            }
            let cache = p.wrapping_add(self.layout.p_mcache);
            let cache = memory.read_u64(cache).map_err(unreadable)?;
            if cache == 0 {
                continue;
            }
            if !cache.is_multiple_of(8) {
                return Err(implausible("a cache that is not aligned"));
            }
            reset.caches += 1;
            let next = Avma(cache).wrapping_add(self.layout.mcache_next_sample);
            let old = memory.read_u64(next).map_err(unreadable)?;
            let new = next_sample(rate, uniform());
            reset.patches.push(Patch { address: next, old, new });
            if let Some(offset) = present(self.layout.mcache_rate) {
                let at = Avma(cache).wrapping_add(offset);
                let old = memory.read_u64(at).map_err(unreadable)?;
                // The cache follows the rate at its next sample, so it may be behind.
                if old > MAX_MEM_RATE {
                    return Err(implausible("a cache's rate is out of range"));
                }
                reset.patches.push(Patch { address: at, old, new: rate });
            }
        }
        Ok(reset)
    }
}

/// `nextSample`: without sampling 2⁶³−1, at rate 1 every allocation, else exponential.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn next_sample(rate: u64, uniform: f64) -> u64 {
    match rate {
        0 => i64::MAX.cast_unsigned(),
        1 => 0,
        // The runtime's limit on the mean (fastexprand).
        _ => {
            let mean = rate.min(0x700_0000) as f64;
            let u = if uniform > 0.0 && uniform <= 1.0 { uniform } else { 1.0 };
            (-u.ln() * mean) as u64 + 1
        }
    }
}

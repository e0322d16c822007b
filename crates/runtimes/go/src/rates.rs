//! Reads the runtime's sampling rates, and describes the writes that change them.

use image::{Avma, Memory};

use crate::offsets::present;
use crate::raw::words;
use crate::{Patch, ReadError, Refusal, Runtime, Variable, WritePermit};

/// Rates above these are implausible: 1 TiB between samples, an hour of ticks.
const MAX_MEM_RATE: u64 = 1 << 40;
const MAX_BLOCK_RATE: u64 = 1 << 44;
const MAX_MUTEX_RATE: u64 = 1 << 32;
/// More than any plausible GOMAXPROCS (`_MaxGomaxprocs` limits it in 1.19, only memory since).
const MAX_PROCESSORS: u64 = 1 << 16;

/// The current sampling rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// `MemProfileRate`: mean bytes between samples. 0 if the program links no profiling package.
    pub heap: u64,
    /// `blockprofilerate`: mean ticks of blocking between samples; 0 if off.
    pub block: u64,
    /// `mutexprofilerate`: one in this many contentions is sampled; 0 if off.
    pub mutex: u64,
}

/// Writes that make the processors' allocation caches follow a new heap rate.
///
/// Each cache counts down the bytes to its next sample. If only the rate changed, each cache would
/// immediately contribute one sample too many. Write these while all threads of the target are
/// stopped, because running code changes the caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The writes.
    pub patches: Vec<Patch>,
    /// The number of processors with a cache.
    pub caches: usize,
}

impl Runtime {
    /// Reads the current rates.
    ///
    /// # Errors
    /// [`ReadError`] if the address of a rate is unknown or unreadable.
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
    /// [`Refusal`] unless two sources agree on the address and the current value is plausible.
    pub fn heap_rate_permit(&self, memory: &dyn Memory) -> Result<WritePermit, Refusal> {
        self.permit(memory, Variable::MemProfileRate, MAX_MEM_RATE)
    }

    /// The permission to change `blockprofilerate`. Change it only from 0 (see
    /// [`WritePermit::current`]): otherwise earlier samples would be scaled wrongly.
    ///
    /// # Errors
    /// As [`Runtime::heap_rate_permit`].
    pub fn block_rate_permit(&self, memory: &dyn Memory) -> Result<WritePermit, Refusal> {
        self.permit(memory, Variable::BlockProfileRate, MAX_BLOCK_RATE)
    }

    /// The permission to change `mutexprofilerate`. See [`Runtime::block_rate_permit`].
    ///
    /// # Errors
    /// As [`Runtime::heap_rate_permit`].
    pub fn mutex_rate_permit(&self, memory: &dyn Memory) -> Result<WritePermit, Refusal> {
        self.permit(memory, Variable::MutexProfileRate, MAX_MUTEX_RATE)
    }

    /// The writes that reset the allocation caches to a heap rate of `rate` bytes (`nextSample` and
    /// `memProfRate` of `mcache`). `uniform` returns random numbers in (0, 1], from which the
    /// exponentially distributed distance to the next sample is computed (`nextSample` in
    /// runtime/malloc.go). Call this while the target is stopped.
    ///
    /// # Errors
    /// [`Refusal`] unless two sources agree on `allp` and every processor is plausible.
    pub fn reset_caches(
        &self,
        memory: &dyn Memory,
        rate: u64,
        uniform: &mut dyn FnMut() -> f64,
    ) -> Result<Reset, Refusal> {
        let variable = Variable::Allp;
        // Resetting the caches is useless if the rate cannot be written.
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
                return Err(implausible("the id of a processor is not its index"));
            }
            let cache = p.wrapping_add(self.layout.p_mcache);
            let cache = memory.read_u64(cache).map_err(unreadable)?;
            if cache == 0 {
                continue;
            }
            if !cache.is_multiple_of(8) {
                return Err(implausible("the address of an allocation cache is not aligned"));
            }
            reset.caches += 1;
            let next = Avma(cache).wrapping_add(self.layout.mcache_next_sample);
            let old = memory.read_u64(next).map_err(unreadable)?;
            let new = next_sample(rate, uniform());
            reset.patches.push(Patch { address: next, old, new });
            if let Some(offset) = present(self.layout.mcache_rate) {
                let at = Avma(cache).wrapping_add(offset);
                let old = memory.read_u64(at).map_err(unreadable)?;
                // A cache adopts the rate at its next sample, so it may have an older one.
                if old > MAX_MEM_RATE {
                    return Err(implausible("the rate of an allocation cache is out of range"));
                }
                reset.patches.push(Patch { address: at, old, new: rate });
            }
        }
        Ok(reset)
    }
}

/// Bytes to the next sample (`nextSample` in runtime/malloc.go): 2⁶³−1 without sampling, 0 at rate
/// 1, otherwise exponentially distributed.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn next_sample(rate: u64, uniform: f64) -> u64 {
    match rate {
        0 => i64::MAX.cast_unsigned(),
        1 => 0,
        // The runtime limits the mean to this (fastexprand).
        _ => {
            let mean = rate.min(0x700_0000) as f64;
            let u = if uniform > 0.0 && uniform <= 1.0 { uniform } else { 1.0 };
            (-u.ln() * mean) as u64 + 1
        }
    }
}

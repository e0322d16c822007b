//! Reads the runtime's heap profile (runtime/mprof.go).
//!
//! ```text
//!  memRecord: active, future[0], future[1], future[2], each {allocs, frees} (and bytes, before 1.27)
//! ```

use std::sync::Arc;

use image::{Avma, Memory};

use crate::buckets::{BucketList, Records};
use crate::raw::{u64_at, words};
use crate::{ReadError, Runtime, Variable};

const MEM_PROFILE: u64 = 1;
/// Attempts to read the records without a garbage collection in between.
const MAX_ATTEMPTS: usize = 64;
/// Buckets that all attempts may read together.
const MAX_BUCKETS_READ: usize = 4 << 20;

/// Which of the runtime's counts to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeapView {
    /// What Go's own profile shows: the state after the last completed garbage collection, so that
    /// garbage that is not collected yet does not look like a leak.
    Published,
    /// Everything counted so far. Available before any garbage collection, but garbage that is not
    /// swept yet counts as in use.
    Live,
}

/// Allocations of one size with one stack. The counts are unscaled: see [`scale_heap_sample`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeapRecord {
    /// Index of its bucket, the same for every reading by one reader.
    pub bucket: usize,
    /// The return addresses, innermost first. Inlined calls have addresses of their own.
    pub stack: Arc<[Avma]>,
    /// The size of each object, in bytes.
    pub object_size: u64,
    /// Sampled allocations.
    pub allocated: u64,
    /// Sampled allocations that were freed.
    pub freed: u64,
}

impl HeapRecord {
    /// Sampled objects in use.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.allocated.saturating_sub(self.freed)
    }
}

/// A heap profile with unscaled counts.
#[derive(Debug, Clone, Default)]
pub struct HeapProfile {
    /// `MemProfileRate`: mean bytes between samples. 0 if nothing is sampled.
    pub rate: u64,
    /// The records, newest first.
    pub records: Vec<HeapRecord>,
    /// The number of implausible records, which are omitted.
    pub implausible: usize,
    /// Whether the runtime was updating the records during every attempt. The totals may then lack
    /// that update.
    pub unsettled: bool,
}

/// Estimates the (objects, bytes) that `count` sampled objects stand for. An object of size `s` is
/// sampled with probability 1 − e^(−s/rate) (`scaleHeapSample` in Go's runtime/pprof/protomem.go).
/// Sizes and the rate are in bytes.
#[must_use]
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn scale_heap_sample(count: u64, object_size: u64, rate: u64) -> (u64, u64) {
    let bytes = count.saturating_mul(object_size);
    if count == 0 || object_size == 0 {
        return (0, 0);
    }
    if rate <= 1 {
        return (count, bytes);
    }
    let scale = 1.0 / (1.0 - (-(object_size as f64) / rate as f64).exp());
    ((count as f64 * scale) as u64, (bytes as f64 * scale) as u64)
}

/// The counts of all heap records at one moment.
#[derive(Debug, Clone)]
pub struct HeapReading {
    records: Records,
    /// `mProfCycle`.
    cycle: u32,
    rate: u64,
    unsettled: bool,
}

impl HeapReading {
    /// `MemProfileRate` at the time of the reading, in bytes.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }
}

/// Reads the heap records of one program repeatedly. Remembers the buckets that it knows, and reads
/// only their counts again.
pub struct HeapReader {
    list: BucketList,
    /// Size of each of a record's four parts, in bytes.
    part: usize,
}

impl HeapReader {
    /// Creates a reader for the program of `runtime`.
    #[must_use]
    pub fn new(runtime: &Runtime) -> Self {
        let part = runtime.layout.sizeof_cycle;
        let list = BucketList::new(Variable::Mbuckets, MEM_PROFILE, part.saturating_mul(4));
        Self { list, part: usize::try_from(part).unwrap_or(0) }
    }

    /// Reads the counts of all records.
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found or cannot be read.
    pub fn read(
        &mut self,
        runtime: &Runtime,
        memory: &dyn Memory,
    ) -> Result<HeapReading, ReadError> {
        let cycle_at = runtime.address(Variable::MProfCycle)?;
        let mut reading = self.attempt(runtime, memory, cycle_at)?;
        let attempts = (MAX_BUCKETS_READ / self.list.len().max(1)).clamp(2, MAX_ATTEMPTS);
        for _ in 1..attempts {
            if !reading.unsettled {
                break;
            }
            reading = self.attempt(runtime, memory, cycle_at)?;
        }
        reading.rate = memory.read_u64(runtime.address(Variable::MemProfileRate)?)?;
        Ok(reading)
    }

    fn attempt(
        &mut self,
        runtime: &Runtime,
        memory: &dyn Memory,
        cycle_at: Avma,
    ) -> Result<HeapReading, ReadError> {
        let cycle = memory.read_u32(cycle_at)?;
        let locked = runtime.heap_is_locked(memory);
        let records = self.list.read(runtime, memory)?;
        // A garbage collection has moved counts between cycles.
        let moved = memory.read_u32(cycle_at)? != cycle;
        let unsettled = moved || locked || runtime.heap_is_locked(memory);
        Ok(HeapReading { records, cycle, rate: 0, unsettled })
    }

    /// Builds the profile of a reading.
    #[must_use]
    pub fn profile(&self, reading: &HeapReading, view: HeapView) -> HeapProfile {
        let sum = |record: &[u8], parts: &[usize]| {
            let count = |part: usize, at| u64_at(record, (part * self.part + at) as u64);
            let add = |at| parts.iter().fold(0u64, |n, part| n.wrapping_add(count(*part, at)));
            (add(0), add(8))
        };
        // mProfCycle: the number of the cycle, with a flag in the lowest bit that its counts were
        // added to active.
        let (flushed, current) = (reading.cycle & 1 != 0, (reading.cycle >> 1) as usize % 3);
        let published = [0, 1 + current];
        let published = if flushed { &published[..1] } else { &published[..] };
        let buckets = 0..reading.records.len();
        // Go also shows everything before the first garbage collection (memProfileInternal).
        let is_empty = |bucket| {
            let record = reading.records.get(bucket);
            record.is_none_or(|r| sum(r, published) == (0, 0))
        };
        let everything = view == HeapView::Live || buckets.clone().all(is_empty);
        let parts = if everything { &[0, 1, 2, 3][..] } else { published };
        let (rate, unsettled) = (reading.rate, reading.unsettled);
        let mut profile = HeapProfile { rate, unsettled, ..Default::default() };
        for bucket in buckets.rev() {
            let counts = reading.records.get(bucket).map(|record| sum(record, parts));
            let Some((allocated, freed)) = counts.filter(|(a, f)| f <= a) else {
                profile.implausible += 1;
                continue;
            };
            let (stack, object_size) = (self.list.stack(bucket), self.list.object_size(bucket));
            profile.records.push(HeapRecord { bucket, stack, object_size, allocated, freed });
        }
        profile
    }
}

impl Runtime {
    /// Reads the heap profile once. For repeated readings, use [`HeapReader`].
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found or cannot be read.
    pub fn heap_profile(
        &self,
        memory: &dyn Memory,
        view: HeapView,
    ) -> Result<HeapProfile, ReadError> {
        let mut reader = HeapReader::new(self);
        let reading = reader.read(self, memory)?;
        Ok(reader.profile(&reading, view))
    }

    /// Whether a thread is moving counts between cycles: whether one of the locks, a
    /// `runtime.mutex` each, has a key other than 0. Unknown locks of a stripped program count as
    /// free.
    fn heap_is_locked(&self, memory: &dyn Memory) -> bool {
        let held = |variable, count| {
            let locks = self.address(variable).ok().and_then(|a| words(memory, a, count).ok());
            locks.is_some_and(|l| l.iter().any(|key| *key != 0))
        };
        held(Variable::ProfMemActiveLock, 1) || held(Variable::ProfMemFutureLock, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_matches_runtime_pprof() {
        assert_eq!(scale_heap_sample(0, 16, 524_288), (0, 0));
        assert_eq!(scale_heap_sample(3, 16, 1), (3, 48));
        // Expected values were printed by scaleHeapSample.
        assert_eq!(scale_heap_sample(100, 1 << 20, 512 << 10), (115, 121_269_664));
        assert_eq!(scale_heap_sample(1, 16, 524_288), (32_768, 524_296));
    }
}

//! What the runtime sampled of allocations, blocking and lock contention (runtime/mprof.go).
//!
//! ```text
//!  bucket: 0 next   8 allnext   16 typ   24 hash   32 size   40 nstk   48 stack[nstk]   record
//!  heap:   active, future[0], future[1], future[2], each {allocs, frees} (and bytes, before 1.27)
//!  others: {count f64, cycles i64}
//! ```
//!
//! Buckets are never freed, moved or unlinked, so the lists can be read while they grow: new
//! ones are put in front.

use std::collections::{HashMap, HashSet};

use image::{Avma, Memory};

use crate::raw::{Block, Paged, words};
use crate::{ReadError, Runtime, Variable};

/// More buckets (distinct stacks and sizes) than any program has; each takes 200 bytes of it.
const MAX_BUCKETS: usize = 2 << 20;
/// `maxProfStackDepth` since 1.23; 32 before.
const MAX_STACK: u64 = 1024 + 8;
const ATTEMPTS: usize = 64;

const MEM_PROFILE: u64 = 1;
const BLOCK_PROFILE: u64 = 2;
const MUTEX_PROFILE: u64 = 3;

/// Which of the runtime's counts are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeapView {
    /// What Go's own profile shows: the state as of the end of the last garbage collection, so
    /// that allocations that are not yet collected do not look like leaks.
    Published,
    /// Everything counted so far, also before any garbage collection; garbage that is not swept
    /// yet counts as in use.
    Live,
}

/// Allocations of one size at one place. Unscaled: see [`scale_heap_sample`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeapRecord {
    /// The return addresses, innermost first; inlined calls are listed one by one.
    pub stack: Vec<Avma>,
    /// The size of each object, in bytes.
    pub object_size: u64,
    /// Sampled allocations.
    pub allocated: u64,
    /// How many of these were freed.
    pub freed: u64,
}

impl HeapRecord {
    /// Sampled objects in use.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.allocated.saturating_sub(self.freed)
    }
}

/// The heap profile, as sampled.
#[derive(Debug, Clone, Default)]
pub struct HeapProfile {
    /// `MemProfileRate` now: mean bytes between samples. 0: nothing is sampled.
    pub rate: u64,
    /// The records, newest first.
    pub records: Vec<HeapRecord>,
    /// Records that made no sense and were left out.
    pub implausible: usize,
    /// The runtime was writing at every attempt: sums may be off by what it was about to write.
    pub unsettled: bool,
}

/// One place that waited, or let others wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentionRecord {
    /// The return addresses, innermost first: see [`Runtime::recorded_frames`].
    pub stack: Vec<Avma>,
    /// Contentions; the runtime scales them up by the rate when it records them.
    pub count: f64,
    /// Time waited, in ticks: see [`TicksClock`].
    pub ticks: i64,
}

/// The block or mutex profile since the program began.
#[derive(Debug, Clone, Default)]
pub struct Contention {
    /// The records, newest first.
    pub records: Vec<ContentionRecord>,
    /// Records that made no sense and were left out.
    pub implausible: usize,
}

impl Contention {
    /// What was added since `before`, which must be of the same process. Records are permanent
    /// and only grow, so that this is a profile of the time between.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let old: HashMap<&[Avma], (f64, i64)> =
            before.records.iter().map(|r| (&r.stack[..], (r.count, r.ticks))).collect();
        for record in &mut self.records {
            if let Some((count, ticks)) = old.get(&record.stack[..]) {
                record.count -= count;
                record.ticks = record.ticks.saturating_sub(*ticks);
            }
        }
        self.records.retain(|r| r.count > 0.0 || r.ticks > 0);
        self
    }
}

/// Converts the runtime's ticks to time. They are those of the TSC on x86-64, whose rate was
/// measured by the caller; `runtime.ticks` is stripped from some programs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TicksClock {
    /// Ticks per second.
    pub per_second: f64,
}

impl TicksClock {
    /// Nanoseconds, as `printCountCycleProfile` in runtime/pprof computes them.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn nanoseconds(self, ticks: i64) -> i64 {
        (ticks as f64 / (self.per_second / 1e9)) as i64
    }

    /// The ticks for `SetBlockProfileRate(nanoseconds)` (runtime/mprof.go).
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn block_rate(self, nanoseconds: u64) -> u64 {
        match nanoseconds {
            0 | 1 => nanoseconds,
            n => ((n as f64 * self.per_second / 1e9) as u64).max(1),
        }
    }
}

/// What a sampled count of objects stands for: (objects, bytes). A sample of size `s` is taken
/// with probability 1 − e^(−s/rate): `scaleHeapSample` in Go's runtime/pprof/protomem.go.
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

struct Bucket {
    block: Block,
    stack: Vec<Avma>,
    /// The offset of its record in `block`.
    record: u64,
}

struct Buckets {
    list: Vec<Bucket>,
    implausible: usize,
}

impl Runtime {
    /// Reads the heap profile.
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found or read.
    pub fn heap_profile(
        &self,
        memory: &dyn Memory,
        view: HeapView,
    ) -> Result<HeapProfile, ReadError> {
        let cycle_at = self.address(Variable::MProfCycle)?;
        let mut unsettled = true;
        let mut profile = HeapProfile::default();
        for _ in 0..ATTEMPTS {
            let before = memory.read_u32(cycle_at)?;
            let locked = self.heap_is_locked(memory);
            profile = self.heap_once(memory, view, before)?;
            // A garbage collection moves counts from one cycle to the next.
            let moved = memory.read_u32(cycle_at)? != before;
            if !moved && !locked && !self.heap_is_locked(memory) {
                unsettled = false;
                break;
            }
        }
        profile.rate = memory.read_u64(self.address(Variable::MemProfileRate)?)?;
        profile.unsettled = unsettled;
        Ok(profile)
    }

    /// Whether a thread is moving counts between cycles. The locks are `runtime.mutex`, whose
    /// key is 0 when free; stripped programs may not tell where they are.
    fn heap_is_locked(&self, memory: &dyn Memory) -> bool {
        let held = |variable, count| {
            let locks = self.address(variable).ok().and_then(|a| words(memory, a, count).ok());
            locks.is_some_and(|l| l.iter().any(|key| *key != 0))
        };
        held(Variable::ProfMemActiveLock, 1) || held(Variable::ProfMemFutureLock, 3)
    }

    fn heap_once(
        &self,
        memory: &dyn Memory,
        view: HeapView,
        cycle: u32,
    ) -> Result<HeapProfile, ReadError> {
        let size = self.layout.sizeof_cycle;
        let buckets = self.buckets(memory, Variable::Mbuckets, MEM_PROFILE, 4 * size)?;
        // mProfCycle: the cycle's number, and in the lowest bit whether it was added to active.
        let (flushed, due) = (cycle & 1 != 0, u64::from(cycle >> 1) % 3);
        let sum = |b: &Bucket, parts: &[u64]| {
            let count = |part: u64, at| b.block.u64(b.record + part * size + at);
            let add = |at| parts.iter().fold(0u64, |n, p| n.wrapping_add(count(*p, at)));
            (add(0), add(8))
        };
        let published = [0, 1 + due];
        let published = if flushed { &published[..1] } else { &published[..] };
        // Before the first garbage collection Go shows everything, too (memProfileInternal).
        let nothing = || buckets.list.iter().all(|b| sum(b, published) == (0, 0));
        let everything = view == HeapView::Live || nothing();
        let parts = if everything { &[0, 1, 2, 3][..] } else { published };
        let mut profile = HeapProfile { implausible: buckets.implausible, ..Default::default() };
        for b in &buckets.list {
            let (allocated, freed) = sum(b, parts);
            let object_size = b.block.u64(self.layout.bucket_size);
            if freed > allocated {
                profile.implausible += 1;
                continue;
            }
            let stack = b.stack.clone();
            profile.records.push(HeapRecord { stack, object_size, allocated, freed });
        }
        Ok(profile)
    }

    /// Reads the block profile: where goroutines waited.
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found or read.
    pub fn block_profile(&self, memory: &dyn Memory) -> Result<Contention, ReadError> {
        self.contention(memory, Variable::Bbuckets, BLOCK_PROFILE)
    }

    /// Reads the mutex profile: where locks were released that others waited for. See
    /// [`Runtime::mutex_is_unscaled`].
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found or read.
    pub fn mutex_profile(&self, memory: &dyn Memory) -> Result<Contention, ReadError> {
        self.contention(memory, Variable::Xbuckets, MUTEX_PROFILE)
    }

    fn contention(
        &self,
        memory: &dyn Memory,
        list: Variable,
        kind: u64,
    ) -> Result<Contention, ReadError> {
        let buckets = self.buckets(memory, list, kind, 16)?;
        let mut profile = Contention { implausible: buckets.implausible, ..Default::default() };
        for b in buckets.list {
            let count = f64::from_bits(b.block.u64(b.record));
            let ticks = b.block.u64(b.record + 8).cast_signed();
            if !count.is_finite() || count < 0.0 || ticks < 0 {
                profile.implausible += 1;
                continue;
            }
            profile.records.push(ContentionRecord { stack: b.stack, count, ticks });
        }
        Ok(profile)
    }

    /// Whether mutex counts and delays are as sampled, to be multiplied by the fraction: before
    /// Go 1.20.
    #[must_use]
    pub fn mutex_is_unscaled(&self) -> bool {
        self.layout.mutex_is_unscaled()
    }

    /// Reads a list of buckets of one kind, each with a record of `record` bytes.
    fn buckets(
        &self,
        memory: &dyn Memory,
        list: Variable,
        kind: u64,
        record: u64,
    ) -> Result<Buckets, ReadError> {
        let layout = &self.layout;
        let mut next = memory.read_u64(self.address(list)?)?;
        let memory = &Paged::new(memory);
        let mut found = Buckets { list: Vec::new(), implausible: 0 };
        let mut seen = HashSet::new();
        while next != 0 {
            if !seen.insert(next) || seen.len() > MAX_BUCKETS {
                return Err(ReadError::Implausible("a list of samples without end"));
            }
            let at = Avma(next);
            let head = words(memory, at, 6)?;
            let word = |offset: u64| head.get((offset / 8) as usize).copied().unwrap_or(0);
            let depth = word(layout.bucket_nstk);
            // A bucket is complete before it is linked in, so what differs is no bucket.
            if word(layout.bucket_typ) != kind || depth > MAX_STACK {
                return Err(ReadError::Implausible("a sample of another kind"));
            }
            next = word(layout.bucket_allnext);
            let record_at = layout.sizeof_bucket + 8 * depth;
            let size = usize::try_from(record_at + record).unwrap_or(0);
            let Ok(block) = Block::read(memory, at, size) else {
                found.implausible += 1;
                continue;
            };
            let frame = |i: u64| Avma(block.u64(layout.sizeof_bucket + 8 * i));
            let stack = (0..depth).map(frame).collect();
            found.list.push(Bucket { block, stack, record: record_at });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_is_that_of_runtime_pprof() {
        assert_eq!(scale_heap_sample(0, 16, 524_288), (0, 0));
        assert_eq!(scale_heap_sample(3, 16, 1), (3, 48));
        // What scaleHeapSample itself printed.
        assert_eq!(scale_heap_sample(100, 1 << 20, 512 << 10), (115, 121_269_664));
        assert_eq!(scale_heap_sample(1, 16, 524_288), (32_768, 524_296));
    }

    #[test]
    fn a_difference_keeps_only_what_was_added() {
        let record = |pc, count, ticks| ContentionRecord { stack: vec![Avma(pc)], count, ticks };
        let before =
            Contention { records: vec![record(1, 2.0, 20), record(2, 5.0, 50)], implausible: 0 };
        let after = Contention {
            records: vec![record(3, 1.0, 9), record(1, 6.0, 50), record(2, 5.0, 50)],
            implausible: 0,
        };
        assert_eq!(after.since(&before).records, [record(3, 1.0, 9), record(1, 4.0, 30)]);
    }
}

//! What the runtime sampled of blocking and lock contention (runtime/mprof.go).
//!
//! ```text
//!  record: {count f64, cycles i64}
//! ```

use std::sync::Arc;

use image::{Avma, Memory};

use crate::buckets::BucketList;
use crate::raw::u64_at;
use crate::{ReadError, Runtime, Variable};

const BLOCK_PROFILE: u64 = 2;
const MUTEX_PROFILE: u64 = 3;
const RECORD: u64 = 16;

/// One place that waited, or let others wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentionRecord {
    /// The number of its place: the same in each reading of a program.
    pub place: usize,
    /// The return addresses, innermost first: see [`Runtime::recorded_frames`].
    pub stack: Arc<[Avma]>,
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
        let mut old: Vec<_> = before.records.iter().collect();
        old.sort_unstable_by_key(|r| r.place);
        for record in &mut self.records {
            if let Ok(i) = old.binary_search_by_key(&record.place, |r| r.place) {
                record.count -= old[i].count;
                record.ticks = record.ticks.saturating_sub(old[i].ticks);
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

/// Reads the block or the mutex records of one program again and again: see
/// [`HeapReader`](crate::HeapReader).
pub struct ContentionReader(BucketList);

impl ContentionReader {
    /// Of the block profile: where goroutines waited.
    #[must_use]
    pub fn block() -> Self {
        Self(BucketList::new(Variable::Bbuckets, BLOCK_PROFILE, RECORD))
    }

    /// Of the mutex profile: where locks were released that others waited for. See
    /// [`Runtime::mutex_is_unscaled`].
    #[must_use]
    pub fn mutex() -> Self {
        Self(BucketList::new(Variable::Xbuckets, MUTEX_PROFILE, RECORD))
    }

    /// Reads the records.
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found or read.
    pub fn read(
        &mut self,
        runtime: &Runtime,
        memory: &dyn Memory,
    ) -> Result<Contention, ReadError> {
        let records = self.0.read(runtime, memory)?;
        let mut profile = Contention::default();
        for place in (0..records.len()).rev() {
            let record = records
                .get(place)
                .map(|record| (f64::from_bits(u64_at(record, 0)), u64_at(record, 8).cast_signed()));
            let plausible =
                |(count, ticks): &(f64, i64)| count.is_finite() && *count >= 0.0 && *ticks >= 0;
            let Some((count, ticks)) = record.filter(plausible) else {
                profile.implausible += 1;
                continue;
            };
            profile.records.push(ContentionRecord {
                place,
                stack: self.0.stack(place),
                count,
                ticks,
            });
        }
        Ok(profile)
    }
}

impl Runtime {
    /// Reads the block profile once.
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found or read.
    pub fn block_profile(&self, memory: &dyn Memory) -> Result<Contention, ReadError> {
        ContentionReader::block().read(self, memory)
    }

    /// Reads the mutex profile once.
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found or read.
    pub fn mutex_profile(&self, memory: &dyn Memory) -> Result<Contention, ReadError> {
        ContentionReader::mutex().read(self, memory)
    }

    /// Whether mutex counts and delays are as sampled, to be multiplied by the fraction: before
    /// Go 1.20.
    #[must_use]
    pub fn mutex_is_unscaled(&self) -> bool {
        self.layout.mutex_is_unscaled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_keeps_only_what_was_added() {
        let record = |place, count, ticks| {
            let stack = Arc::from([Avma(0x40_0000 + place as u64)]);
            ContentionRecord { place, stack, count, ticks }
        };
        let before =
            Contention { records: vec![record(1, 5.0, 50), record(0, 2.0, 20)], implausible: 0 };
        let after = Contention {
            records: vec![record(2, 1.0, 9), record(1, 5.0, 50), record(0, 6.0, 50)],
            implausible: 0,
        };
        assert_eq!(after.since(&before).records, [record(2, 1.0, 9), record(0, 4.0, 30)]);
    }
}

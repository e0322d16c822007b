//! Reads the runtime's block and mutex profiles (runtime/mprof.go).
//!
//! ```text
//!  blockRecord: {count f64, cycles i64}
//! ```

use std::sync::Arc;

use image::{Avma, Memory};

use crate::buckets::BucketList;
use crate::raw::u64_at;
use crate::{ReadError, Runtime, Variable};

const BLOCK_PROFILE: u64 = 2;
const MUTEX_PROFILE: u64 = 3;
/// Size of a `blockRecord` in bytes.
const RECORD_SIZE: u64 = 16;

/// A stack that waited, or that made others wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentionRecord {
    /// Index of its bucket, the same for every reading by one reader.
    pub bucket: usize,
    /// The return addresses, innermost first. [`Runtime::recorded_frames`] names them.
    pub stack: Arc<[Avma]>,
    /// The number of contentions, which the runtime scales by the rate when it records them (but
    /// see [`Runtime::mutex_is_unscaled`]).
    pub count: f64,
    /// The total wait time in ticks: see [`TicksClock`].
    pub ticks: i64,
}

/// A block or mutex profile since the start of the program.
#[derive(Debug, Clone, Default)]
pub struct Contention {
    /// The records, newest first.
    pub records: Vec<ContentionRecord>,
    /// The number of implausible records, which are omitted.
    pub implausible: usize,
}

impl Contention {
    /// The profile of the time since `before`, a reading of the same reader. Records are permanent
    /// and only grow, so their difference is that profile.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let mut old: Vec<_> = before.records.iter().collect();
        old.sort_unstable_by_key(|r| r.bucket);
        for record in &mut self.records {
            if let Ok(i) = old.binary_search_by_key(&record.bucket, |r| r.bucket) {
                record.count -= old[i].count;
                record.ticks = record.ticks.saturating_sub(old[i].ticks);
            }
        }
        self.records.retain(|r| r.count > 0.0 || r.ticks > 0);
        self
    }
}

/// Converts the runtime's ticks to time. On x86-64 they are TSC ticks, whose rate the caller
/// measures, because some programs do not have `runtime.ticks`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TicksClock {
    /// Ticks per second.
    pub per_second: f64,
}

impl TicksClock {
    /// Converts ticks to nanoseconds as `printCountCycleProfile` in runtime/pprof does.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn nanoseconds(self, ticks: i64) -> i64 {
        (ticks as f64 / (self.per_second / 1e9)) as i64
    }

    /// The `blockprofilerate`, in ticks, that `SetBlockProfileRate(nanoseconds)` sets
    /// (runtime/mprof.go).
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn block_rate(self, nanoseconds: u64) -> u64 {
        match nanoseconds {
            0 | 1 => nanoseconds,
            n => ((n as f64 * self.per_second / 1e9) as u64).max(1),
        }
    }
}

/// Reads the block or mutex records of one program repeatedly. Like
/// [`HeapReader`](crate::HeapReader), reads only the counts of known records again.
pub struct ContentionReader(BucketList);

impl ContentionReader {
    /// Creates a reader of the block profile: stacks that waited.
    #[must_use]
    pub fn block() -> Self {
        Self(BucketList::new(Variable::Bbuckets, BLOCK_PROFILE, RECORD_SIZE))
    }

    /// Creates a reader of the mutex profile: stacks that released a lock for which others waited.
    /// See [`Runtime::mutex_is_unscaled`].
    #[must_use]
    pub fn mutex() -> Self {
        Self(BucketList::new(Variable::Xbuckets, MUTEX_PROFILE, RECORD_SIZE))
    }

    /// Reads all records.
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found or cannot be read.
    pub fn read(
        &mut self,
        runtime: &Runtime,
        memory: &dyn Memory,
    ) -> Result<Contention, ReadError> {
        let records = self.0.read(runtime, memory)?;
        let mut profile = Contention::default();
        for bucket in (0..records.len()).rev() {
            let record = records
                .get(bucket)
                .map(|record| (f64::from_bits(u64_at(record, 0)), u64_at(record, 8).cast_signed()));
            let plausible =
                |(count, ticks): &(f64, i64)| count.is_finite() && *count >= 0.0 && *ticks >= 0;
            let Some((count, ticks)) = record.filter(plausible) else {
                profile.implausible += 1;
                continue;
            };
            profile.records.push(ContentionRecord {
                bucket,
                stack: self.0.stack(bucket),
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
    /// [`ReadError`] if the list is not found or cannot be read.
    pub fn block_profile(&self, memory: &dyn Memory) -> Result<Contention, ReadError> {
        ContentionReader::block().read(self, memory)
    }

    /// Reads the mutex profile once.
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found or cannot be read.
    pub fn mutex_profile(&self, memory: &dyn Memory) -> Result<Contention, ReadError> {
        ContentionReader::mutex().read(self, memory)
    }

    /// Whether mutex counts and delays are unscaled, so that the caller has to multiply them by
    /// `mutexprofilerate`: before Go 1.20.
    #[must_use]
    pub fn mutex_is_unscaled(&self) -> bool {
        self.layout.mutex_is_unscaled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_keeps_only_added_counts() {
        let record = |bucket, count, ticks| {
            let stack = Arc::from([Avma(0x40_0000 + bucket as u64)]);
            ContentionRecord { bucket, stack, count, ticks }
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

//! The `heap` and `allocs` profiles of Go programs.
//!
//! A program that imports a profiling package samples its allocations from its start on: that is
//! read as it is. In any other the sampling is switched on for the recording; what was allocated
//! before cannot be known.

use std::cell::OnceCell;
use std::marker::PhantomData;

use assemble::Stats;
use goruntime::{
    HeapProfile, HeapReader, HeapReading, HeapRecord, HeapView, RecordedStacks, scale_heap_sample,
};
use pprof::{KindFacts, Label};
use process::Claimed;

use super::collector::GoKind;
use super::profile::GoProfile;
use super::program::Program;
use super::rates::{self, Setter, Wanted};
use crate::kinds::options::{HEAP_HISTORY, HEAP_RATE};
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// Which of the two kinds, equal but for what is shown first.
pub(crate) trait Shown: 'static {
    const FACTS: KindFacts;
}

pub(crate) struct InUse;
pub(crate) struct Allocated;

impl Shown for InUse {
    const FACTS: KindFacts = pprof::kinds::HEAP;
}

impl Shown for Allocated {
    const FACTS: KindFacts = pprof::kinds::ALLOCS;
}

/// `heap`: shows what is in use.
pub(crate) type Heap = HeapRecords<InUse>;
/// `allocs`: shows what was allocated.
pub(crate) type Allocs = HeapRecords<Allocated>;

/// The heap records of a program.
pub(crate) struct HeapRecords<S> {
    setter: Setter,
    wanted: Wanted,
    reader: HeapReader,
    /// What had been sampled at each bucket before we came: by an earlier recording, mostly.
    before: Vec<u64>,
    read: Option<Reading>,
    shown: PhantomData<S>,
}

/// What was read last.
struct Reading {
    counts: HeapReading,
    rate: u64,
    /// Taken apart only once it is known to be the last.
    views: OnceCell<Views>,
}

struct Views {
    /// As of the last garbage collection.
    published: HeapProfile,
    /// Also what came since.
    live: HeapProfile,
}

/// A bucket, and what its records say.
struct Values<'a> {
    record: &'a HeapRecord,
    /// Allocated while we looked.
    allocated: u64,
    in_use: u64,
}

impl<S> HeapRecords<S> {
    /// The program samples by itself, since it began.
    fn is_history(&self) -> bool {
        matches!(self.setter, Setter::Own(_))
    }

    fn old(&self, record: &HeapRecord) -> u64 {
        self.before.get(record.bucket).copied().unwrap_or(0)
    }

    fn views<'a>(&self, reading: &'a Reading) -> &'a Views {
        let view = |view| self.reader.profile(&reading.counts, view);
        reading.views.get_or_init(|| Views {
            published: view(HeapView::Published),
            live: view(HeapView::Live),
        })
    }

    /// What was counted at each bucket. In use is as of the last garbage collection.
    fn values<'a>(&self, reading: &'a Reading) -> Vec<Values<'a>> {
        let Views { live, published } = self.views(reading);
        let buckets = live.records.iter().chain(&published.records).map(|r| r.bucket + 1);
        let mut values: Vec<Option<Values>> = Vec::new();
        values.resize_with(buckets.max().unwrap_or(0), || None);
        let history = self.is_history();
        for record in &live.records {
            let bucket = record.bucket;
            let new = record.allocated.saturating_sub(self.old(record));
            let allocated = if history { 0 } else { new };
            values[bucket] = Some(Values { record, allocated, in_use: 0 });
        }
        for record in &published.records {
            let (in_use, all, bucket) = (record.in_use(), record.allocated, record.bucket);
            let at = values[bucket].get_or_insert(Values { record, allocated: 0, in_use: 0 });
            at.in_use = in_use;
            if history {
                at.allocated = all;
            }
        }
        // The newest first, as in Go's profiles.
        values.into_iter().rev().flatten().collect()
    }
}

fn read(reader: &mut HeapReader, program: &Program) -> Result<HeapReading, RecordError> {
    reader.read(&program.runtime, &program.memory).map_err(|e| program.error(e))
}

impl<S: Shown> GoKind for HeapRecords<S> {
    const FACTS: KindFacts = S::FACTS;

    fn attach(program: &Program, options: &RecordOptions) -> Result<Self, RecordError> {
        let wanted = Wanted {
            what: Claimed::HeapRate,
            rate: options.own.number(&HEAP_RATE).max(1),
            no_stop: options.no_stop,
        };
        let mut reader = HeapReader::new(&program.runtime);
        let begin = read(&mut reader, program)?;
        let setter = if options.own.flag(&HEAP_HISTORY) {
            if begin.rate() == 0 {
                return Err(RecordError::NotApplicable(format!(
                    "process {} does not sample its own heap, so there is no history to read: \
                     leave --heap-history out to sample from now on",
                    program.process.pid()
                )));
            }
            Setter::Own(begin.rate())
        } else {
            rates::set(program, wanted)?
        };
        let mut before = Vec::new();
        for record in reader.profile(&begin, HeapView::Live).records {
            before.resize(before.len().max(record.bucket + 1), 0);
            before[record.bucket] = record.allocated;
        }
        Ok(Self { setter, wanted, reader, before, read: None, shown: PhantomData })
    }

    fn is_snapshot(&self) -> bool {
        self.is_history()
    }

    fn poll(&mut self, program: &Program) {
        if let Setter::Another = self.setter
            && let Ok(setter) = rates::set(program, self.wanted)
        {
            self.setter = setter;
            if self.is_history() {
                let _ = self.read(program);
            }
        }
    }

    fn read(&mut self, program: &Program) -> Result<(), RecordError> {
        let counts = read(&mut self.reader, program)?;
        let rate = match &self.setter {
            Setter::Held(held) => held.rate,
            _ => counts.rate(),
        };
        // A program that has exec'd has no such memory any more; one that has switched its
        // sampling off has nothing new to tell.
        if rate > 0 {
            self.read = Some(Reading { counts, rate, views: OnceCell::new() });
        }
        Ok(())
    }

    fn has_read(&self) -> bool {
        self.read.is_some()
    }

    fn end(&mut self, _: &Program) {
        if let Setter::Held(_) = self.setter {
            self.setter = Setter::Another;
        }
    }

    fn period(&self) -> i64 {
        let rate = self.read.as_ref().map_or(self.wanted.rate, |r| r.rate);
        i64::try_from(rate).unwrap_or(i64::MAX)
    }

    fn add_to(&self, program: &Program, profile: &mut GoProfile) -> Result<(), RecordError> {
        let Some(reading) = &self.read else { return Ok(()) };
        let mut stacks = RecordedStacks::new(&program.runtime);
        for Values { record, allocated, in_use } in self.values(reading) {
            let size = record.object_size;
            let (a, ab) = scale_heap_sample(allocated, size, reading.rate);
            let (u, ub) = scale_heap_sample(in_use, size, reading.rate);
            if [a, ab, u, ub] == [0; 4] {
                continue;
            }
            let frames = stacks.heap_frames(&record.stack);
            let values = [a, ab, u, ub].map(|v| i64::try_from(v).unwrap_or(i64::MAX));
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            let labels = vec![Label::number("bytes", size, "bytes")];
            profile.add_or(program, &frames, &values, labels, "[no stack recorded]")?;
        }
        Ok(())
    }

    fn account(&self, _: &Program, stats: &mut Stats) {
        let Some(reading) = &self.read else {
            stats.notes.push("the target exited before anything could be read".into());
            return;
        };
        let history = self.is_history();
        let Views { live, published } = self.views(reading);
        let counts = live.records.iter().map(|r| {
            let old = if history { 0 } else { self.old(r) };
            r.allocated.saturating_sub(old)
        });
        stats.samples.kept += counts.sum::<u64>();
        stats.lost += live.implausible as u64;
        if history {
            stats.notes.push(format!(
                "since the program began; in use is as of the last garbage collection, \
                 one sample in {} bytes, as the program has set it",
                reading.rate
            ));
        } else {
            stats.notes.push(format!(
                "since attach: what was allocated before is not known; in use is as of the last \
                 garbage collection, one sample in {} bytes",
                reading.rate
            ));
            if published.records.iter().any(|r| r.in_use() > 0 && self.old(r) > 0) {
                stats.notes.push(
                    "in use counts also what was sampled before this recording, if it still is"
                        .into(),
                );
            }
        }
        if live.unsettled {
            stats.notes.push("the program was writing its records whenever they were read".into());
        }
    }
}

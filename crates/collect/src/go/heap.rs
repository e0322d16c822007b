//! Records the `heap` and `allocs` profiles of Go programs.
//!
//! A program that imports a profiling package samples its allocations from its start on; its
//! records are read as they are. In any other program, sampling is switched on for the recording,
//! and earlier allocations are unknown.

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
use super::rates::{self, RateRequest, Setter};
use crate::kinds::options::{KindOption, OptionValue};
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// The mean number of allocated bytes between two heap samples, if the recording switches sampling
/// on.
pub(crate) const HEAP_RATE: KindOption = KindOption {
    name: "heap-rate",
    help: "Take one sample per this many bytes, unless the program is already sampling (Go only)",
    default: OptionValue::Bytes(512 << 10),
};

/// Reads the samples that a Go program has taken itself.
pub(crate) const HEAP_HISTORY: KindOption = KindOption {
    name: "heap-history",
    help: "Read the program's own heap samples without enabling sampling (Go only)",
    default: OptionValue::Flag(false),
};

/// The two kinds. They differ only in the sample type that is shown by default.
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
    request: RateRequest,
    reader: HeapReader,
    /// The number of allocations sampled in each bucket before this recording, usually by an earlier
    /// recording.
    before: Vec<u64>,
    read: Option<Reading>,
    shown: PhantomData<S>,
}

/// What was read last.
struct Reading {
    counts: HeapReading,
    rate: u64,
    /// Computed on first use, since a later reading usually replaces this one.
    views: OnceCell<Views>,
}

struct Views {
    /// The state at the last garbage collection.
    published: HeapProfile,
    /// The current state.
    live: HeapProfile,
}

/// The values of one bucket.
struct Values<'a> {
    record: &'a HeapRecord,
    /// Allocated during the recording; in a history, since the program started.
    allocated: u64,
    in_use: u64,
}

impl<S> HeapRecords<S> {
    /// Whether the program has been sampling by itself since it started.
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

    /// The values of each bucket. In-use values are those at the last garbage collection.
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
        // List the newest places first, as Go's profiles do.
        values.into_iter().rev().flatten().collect()
    }
}

fn read(reader: &mut HeapReader, program: &Program) -> Result<HeapReading, RecordError> {
    reader.read(&program.runtime, &program.memory).map_err(|e| program.error(e))
}

impl<S: Shown> GoKind for HeapRecords<S> {
    const FACTS: KindFacts = S::FACTS;

    fn attach(program: &Program, options: &RecordOptions) -> Result<Self, RecordError> {
        let request = RateRequest {
            what: Claimed::HeapRate,
            rate: options.own.number(&HEAP_RATE).max(1),
            no_stop: options.no_stop,
        };
        let mut reader = HeapReader::new(&program.runtime);
        let begin = read(&mut reader, program)?;
        let setter = if options.own.flag(&HEAP_HISTORY) {
            if begin.rate() == 0 {
                return Err(RecordError::NotApplicable(format!(
                    "process {} does not sample its own heap, so there is no history to read; fix: \
                     leave out --heap-history, to sample from now on",
                    program.process.pid()
                )));
            }
            Setter::Own(begin.rate())
        } else {
            rates::set(program, request)?
        };
        let mut before = Vec::new();
        for record in reader.profile(&begin, HeapView::Live).records {
            before.resize(before.len().max(record.bucket + 1), 0);
            before[record.bucket] = record.allocated;
        }
        Ok(Self { setter, request, reader, before, read: None, shown: PhantomData })
    }

    fn is_snapshot(&self) -> bool {
        self.is_history()
    }

    fn poll(&mut self, program: &Program) {
        if let Setter::Another = self.setter
            && let Ok(setter) = rates::set(program, self.request)
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
        // The rate is 0 if the program has switched its sampling off, or has called exec and no
        // longer has this memory. Then the last reading remains.
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
        let rate = self.read.as_ref().map_or(self.request.rate, |r| r.rate);
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
            stats.notes.push("the target exited before its records could be read".into());
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
                "covers the time since the program started; in-use values are from the last \
                 garbage collection; one sample per {} bytes (the program's own rate)",
                reading.rate
            ));
        } else {
            stats.notes.push(format!(
                "covers the time since attach: earlier allocations are unknown; in-use values are \
                 from the last garbage collection; one sample per {} bytes",
                reading.rate
            ));
            if published.records.iter().any(|r| r.in_use() > 0 && self.old(r) > 0) {
                stats.notes.push(
                    "in-use values include memory that was sampled before this recording and is \
                     still in use"
                        .into(),
                );
            }
        }
        if live.unsettled {
            let note = "the program was writing its records during every attempt to read them";
            stats.notes.push(note.into());
        }
    }
}

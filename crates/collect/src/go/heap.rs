//! The `heap` and `allocs` profiles of Go programs.
//!
//! A program that imports a profiling package samples its allocations from its start on: that is
//! read as it is. In any other the sampling is switched on for the recording; what was allocated
//! before cannot be known.

use std::collections::HashMap;
use std::marker::PhantomData;

use goruntime::{HeapProfile, HeapRecord, HeapView, scale_heap_sample};
use image::Avma;
use pprof::Label;
use target::Claimed;

use super::collector::GoKind;
use super::profile::{GoProfile, Header};
use super::program::Program;
use super::rates::{self, Setter, Wanted};
use crate::session::RecordOptions;
use crate::{RecordError, Stats};

const TYPES: &[(&str, &str)] = &[
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// Which of the two kinds, equal but for what is shown first.
pub(crate) trait Shown: 'static {
    const DEFAULT: Option<&'static str>;
}

pub(crate) struct InUse;
pub(crate) struct Allocated;

impl Shown for InUse {
    const DEFAULT: Option<&'static str> = None;
}

impl Shown for Allocated {
    const DEFAULT: Option<&'static str> = Some("alloc_space");
}

/// `heap`: shows what is in use.
pub(crate) type Heap = HeapRecords<InUse>;
/// `allocs`: shows what was allocated.
pub(crate) type Allocs = HeapRecords<Allocated>;

/// A place that allocates, and the size.
type Site = (Vec<Avma>, u64);

/// The heap records of a program.
pub(crate) struct HeapRecords<S> {
    setter: Setter,
    wanted: Wanted,
    /// What had been sampled before we came: by an earlier recording, mostly.
    before: HashMap<Site, u64>,
    read: Option<Reading>,
    shown: PhantomData<S>,
}

/// What was read last.
struct Reading {
    /// As of the last garbage collection.
    published: HeapProfile,
    /// Also what came since.
    live: HeapProfile,
    rate: u64,
}

impl<S> HeapRecords<S> {
    /// The program samples by itself, since it began.
    fn is_history(&self) -> bool {
        matches!(self.setter, Setter::Own(_))
    }

    fn values(&self, reading: &Reading) -> Vec<(Site, [u64; 4])> {
        let mut sites: HashMap<Site, [u64; 2]> = HashMap::new();
        let mut order = Vec::new();
        for r in &reading.live.records {
            let site = (r.stack.clone(), r.object_size);
            let old = self.before.get(&site).copied().unwrap_or(0);
            let allocated = if self.is_history() { 0 } else { r.allocated.saturating_sub(old) };
            order.push(site.clone());
            sites.insert(site, [allocated, 0]);
        }
        for r in &reading.published.records {
            let site = (r.stack.clone(), r.object_size);
            if !sites.contains_key(&site) {
                order.push(site.clone());
            }
            let counts = sites.entry(site).or_default();
            counts[1] = r.in_use();
            if self.is_history() {
                counts[0] = r.allocated;
            }
        }
        let scaled = |site: Site| {
            let [allocated, used] = sites.get(&site).copied().unwrap_or_default();
            let (a, ab) = scale_heap_sample(allocated, site.1, reading.rate);
            let (u, ub) = scale_heap_sample(used, site.1, reading.rate);
            (site, [a, ab, u, ub])
        };
        order.into_iter().map(scaled).filter(|(_, v)| *v != [0; 4]).collect()
    }
}

fn heap(program: &Program, view: HeapView) -> Result<HeapProfile, RecordError> {
    program.runtime.heap_profile(&program.memory, view).map_err(|e| program.error(e))
}

impl<S: Shown> GoKind for HeapRecords<S> {
    const HEADER: Header = Header { types: TYPES, period: ("space", "bytes"), default: S::DEFAULT };

    fn attach(program: &Program, options: &RecordOptions) -> Result<Self, RecordError> {
        let wanted = Wanted {
            what: Claimed::HeapRate,
            rate: options.heap_rate.max(1),
            no_stop: options.no_stop,
        };
        let before = heap(program, HeapView::Live)?;
        let setter = if options.heap_history {
            if before.rate == 0 {
                return Err(RecordError::NotApplicable(format!(
                    "process {} does not sample its own heap, so there is no history to read: \
                     leave --heap-history out to sample from now on",
                    program.process.pid()
                )));
            }
            Setter::Own(before.rate)
        } else {
            rates::set(program, wanted)?
        };
        let before = before.records.into_iter().map(|r| ((r.stack, r.object_size), r.allocated));
        let before = before.filter(|(_, allocated)| *allocated > 0).collect();
        Ok(Self { setter, wanted, before, read: None, shown: PhantomData })
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
        let live = heap(program, HeapView::Live)?;
        let published = heap(program, HeapView::Published)?;
        let rate = match &self.setter {
            Setter::Held(held) => held.rate,
            _ => live.rate,
        };
        // A program that has exec'd has no such memory any more; one that has switched its
        // sampling off has nothing new to tell.
        if rate > 0 {
            self.read = Some(Reading { published, live, rate });
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
        for ((stack, size), values) in self.values(reading) {
            let frames = program.runtime.heap_frames(&stack);
            let values = values.map(|v| i64::try_from(v).unwrap_or(i64::MAX));
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
        let counts = reading.live.records.iter().map(|r| {
            let before = || self.before.get(&(r.stack.clone(), r.object_size)).copied();
            r.allocated - if history { 0 } else { before().unwrap_or(0).min(r.allocated) }
        });
        stats.samples.kept += counts.sum::<u64>();
        stats.lost += reading.live.implausible as u64;
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
            let old = |r: &&HeapRecord| {
                r.in_use() > 0 && self.before.contains_key(&(r.stack.clone(), r.object_size))
            };
            if reading.published.records.iter().any(|r| old(&r)) {
                stats.notes.push(
                    "in use counts also what was sampled before this recording, if it still is"
                        .into(),
                );
            }
        }
        if reading.published.unsettled || reading.live.unsettled {
            stats.notes.push("the program was writing its records whenever they were read".into());
        }
    }
}

//! Looks up a batch with several threads, if its units are large or many.

use super::{DwoFinder, Fuel, Hit, Interner, Lookup, Names, Stop, Units};
use crate::files::RejectedFile;

/// Bytes of units for each thread; with fewer, a thread costs more than it saves.
const MIN_BYTES: usize = 8 << 20;
/// Limit of threads: the target needs CPUs, too.
const MAX_THREADS: usize = 4;

/// The claims of one unit.
type Group<'c> = &'c [(u32, u32)];

/// Divides groups into parts of about equal work, one for each thread.
pub(super) fn parts<'c>(
    groups: &[Group<'c>],
    size: impl Fn(Group<'c>) -> usize,
) -> Vec<Vec<Group<'c>>> {
    let total: usize = groups.iter().map(|g| size(g)).sum();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let threads = (total / MIN_BYTES).clamp(1, cpus);
    let mut parts = vec![Vec::new(); threads];
    let mut done = 0;
    for group in groups {
        let part = done / (total / threads + 1);
        parts[part.min(threads - 1)].push(*group);
        done += size(group);
    }
    parts.retain(|p| !p.is_empty());
    parts
}

/// The results of a thread.
struct ThreadResult {
    hits: Vec<Hit>,
    broken_units: u32,
    missing_split: u32,
    rejected: Vec<RejectedFile>,
    fuel: Fuel,
    exhausted: bool,
    /// Whether the limit of names was reached.
    full: bool,
}

impl Lookup<'_, '_> {
    /// As [`Lookup::look_up_in_order`], with a thread for each part. If several units claim an
    /// address, the first one that holds it takes precedence here, too, since parts are merged in
    /// order.
    pub(super) fn look_up_in_parallel(&mut self, parts: &[Vec<Group<'_>>]) -> Result<(), Stop> {
        let share = self.fuel.0 / parts.len() as u64;
        self.fuel.0 = 0;
        let this = &*self;
        let all: Vec<ThreadResult> = std::thread::scope(|scope| {
            let threads: Vec<_> = parts
                .iter()
                .map(|part| {
                    let headers = this.units.headers();
                    let finder = this.finder.as_ref().map(DwoFinder::fork);
                    let (package, pages, sorted) = (this.package, this.pages, this.sorted);
                    scope.spawn(move || {
                        let mut strings = Interner::default();
                        let mut lookup = Lookup {
                            units: Units::of(headers),
                            names: Names::default(),
                            pages,
                            package,
                            finder,
                            strings: &mut strings,
                            fuel: Fuel(share),
                            sorted,
                            hits: sorted.iter().map(|_| Hit::default()).collect(),
                            broken_units: 0,
                            missing_split: 0,
                        };
                        let exhausted = lookup.look_up_in_order(part).is_err();
                        ThreadResult {
                            broken_units: lookup.broken_units + lookup.units.broken,
                            missing_split: lookup.missing_split,
                            rejected: lookup.finder.map(|f| f.rejected).unwrap_or_default(),
                            fuel: lookup.fuel,
                            hits: lookup.hits,
                            exhausted,
                            full: strings.is_full(),
                        }
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|t| t.join());
            joined.map(|r| r.unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
        });
        let mut exhausted = false;
        for found in all {
            self.merge(found, &mut exhausted);
        }
        if exhausted { Err(Stop::Exhausted) } else { Ok(()) }
    }

    fn merge(&mut self, found: ThreadResult, exhausted: &mut bool) {
        self.broken_units += found.broken_units;
        self.missing_split += found.missing_split;
        self.fuel.0 += found.fuel.0;
        *exhausted |= found.exhausted | found.full;
        if let Some(finder) = &mut self.finder {
            finder.add_rejected(found.rejected);
        }
        for (ours, theirs) in self.hits.iter_mut().zip(found.hits) {
            if !ours.frames.is_empty() {
                continue;
            }
            let line_only = ours.line_only.take().or(theirs.line_only);
            *ours = Hit { line_only, ..theirs };
        }
    }
}

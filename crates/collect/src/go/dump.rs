//! Dumps all goroutines of a Go program, as a profile and as text.

use std::sync::Arc;

use aggregate::clock::monotonic_now;
use assemble::Stats;
use goruntime::{format_goroutines, format_goroutines_grouped};
use pprof::kinds::GOROUTINE;
use process::Process;

use super::collector;
use super::goroutine::Goroutines;
use super::program::Program;
use crate::options::RecordOptions;
use crate::outcome::{Dump, Ended, RecordError};

/// Dumps the goroutines of a process; `None` if it is not a Go program.
pub(crate) fn dump(
    process: &Arc<Process>,
    options: &RecordOptions,
) -> Result<Option<Dump>, RecordError> {
    let Some(program) = Program::open(process)? else { return Ok(None) };
    let now = monotonic_now();
    let goroutines = Goroutines::of(&program, true, options.no_stop)?;
    let list = goroutines.list.as_ref().map_or(&[][..], |l| &l.goroutines);
    let runtime = &program.runtime;
    let grouped = format_goroutines_grouped(runtime, list, GOROUTINE.name, runtime.profile_depth());
    let text = format_goroutines(runtime, list, now);
    let outcome = collector::assemble(
        vec![(program, goroutines)],
        options,
        Stats::default(),
        Ended::Duration,
    )?;
    Ok(Some(Dump { profile: outcome.profile, stats: outcome.stats, text, grouped }))
}

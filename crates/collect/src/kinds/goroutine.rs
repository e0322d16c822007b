//! Defines the `goroutine` profile: where every goroutine or thread is now.

use host::rights::Obstacle;

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::{ProgramKind, Subject};
use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::{counts, dump, go, threads};

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::GOROUTINE,
    about: "where every thread or goroutine is now",
    endpoint: Endpoint {
        name: "goroutine",
        about: "Stack traces of all current goroutines, or of all threads. Use debug=2 as a query \
                parameter to export in the same format as an unrecovered panic.",
        seconds: Seconds::Difference,
        lane: "goroutine",
        metric: "goroutine",
        count: Some(counts::stack_count),
        dump: Some(dump::of),
        history: None,
    },
    options: &[],
    prepare,
    check,
};

/// Attaches to the targets for a goroutine profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Goroutines>(request)? {
        return Ok(collector);
    }
    threads::dump::prepare(request)
}

/// Checks whether the current stacks of all goroutines or threads can be read.
fn check(subject: &Subject) -> Result<String, Obstacle> {
    match subject.program {
        ProgramKind::Go => subject.memory(),
        _ => subject.stop(),
    }
}

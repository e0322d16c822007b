//! Defines the `threadcreate` profile: where threads were created.

use host::rights::Obstacle;

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::{ProgramKind, Subject};
use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::perf::creations;
use crate::{counts, go};

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::THREADCREATE,
    about: "where threads were created",
    endpoint: Endpoint {
        name: "threadcreate",
        about: "Stack traces that led to the creation of new OS threads",
        seconds: Seconds::Difference,
        lane: "threadcreate",
        metric: "threadcreate",
        count: Some(counts::thread_count),
        dump: None,
        history: None,
    },
    options: &[],
    prepare,
    check,
};

/// Attaches to the targets for a threadcreate profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Threads>(request)? {
        return Ok(collector);
    }
    creations::prepare(request)
}

/// Checks whether thread creations can be sampled.
fn check(subject: &Subject) -> Result<String, Obstacle> {
    if matches!(subject.program, ProgramKind::Go) {
        return subject.memory();
    }
    subject.attach()?;
    events::try_creations().map_err(|e| Obstacle { reason: e.to_string(), fix: e.fix().into() })?;
    subject.rights.tracepoints()?;
    subject
        .perf
        .clone()
        .map(|()| subject.with_go("tracepoint task:task_newtask", "the target's memory"))
}

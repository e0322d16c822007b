//! Defines the `heap` profile: memory in use, by allocation site.

use host::rights::Obstacle;

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::{ProgramKind, Subject};
use crate::collector::{Collector, Request};
use crate::go::{self, HEAP_HISTORY, HEAP_RATE};
use crate::outcome::RecordError;

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::HEAP,
    about: "memory in use, by allocation site (Go only)",
    endpoint: Endpoint {
        name: "heap",
        about: "A sampling of memory allocations of live objects",
        seconds: Seconds::Difference,
        lane: "heap",
        metric: "memory",
        count: None,
        dump: None,
        history: Some(HEAP_HISTORY),
    },
    options: &[HEAP_RATE, HEAP_HISTORY],
    prepare,
    check,
};

/// Attaches to the targets for a heap profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Heap>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable("heap profiles are only available for Go programs".into()))
}

/// Checks whether allocations can be read. Only Go's allocator records them.
fn check(subject: &Subject) -> Result<String, Obstacle> {
    subject.attach()?;
    let reason = match &subject.program {
        ProgramKind::Unknown => return Ok("Go programs: the target's memory".into()),
        ProgramKind::Go => return subject.memory(),
        ProgramKind::UnsupportedGo(why) => why.clone(),
        ProgramKind::Native => "only available for Go programs".into(),
    };
    let fix = "use heaptrack or the allocator's own profiler for a native heap";
    Err(Obstacle { reason, fix: fix.into() })
}

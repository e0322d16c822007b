//! Defines the `heap` profile: memory in use, by allocation site.

use super::kind::{Endpoint, Kind, Seconds};
use super::options::{HEAP_HISTORY, HEAP_RATE};
use crate::checks::Subject;
use crate::collector::{Collector, Request};
use crate::go;
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
    check: Subject::allocations,
};

/// Attaches to the targets for a heap profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Heap>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable("heap profiles are only available for Go programs".into()))
}

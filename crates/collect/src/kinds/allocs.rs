//! The `allocs` profile.

use super::kind::{Endpoint, Kind, Seconds};
use super::options::{HEAP_HISTORY, HEAP_RATE};
use crate::checks::Patient;
use crate::collector::{Collector, Request};
use crate::go;
use crate::outcome::RecordError;

/// The row of the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::ALLOCS,
    about: "what memory was allocated",
    endpoint: Endpoint {
        name: "allocs",
        about: "A sampling of memory allocations",
        seconds: Seconds::Difference,
        lane: "heap",
        metric: "memory",
        count: None,
        dump: None,
        history: Some(HEAP_HISTORY),
    },
    options: &[HEAP_RATE, HEAP_HISTORY],
    prepare,
    check: Patient::allocations,
};

/// Attaches to the targets, for an allocs profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Allocs>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable("allocs profiles are only available for Go programs".into()))
}

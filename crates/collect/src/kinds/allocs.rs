//! Defines the `allocs` profile: memory allocated, by allocation site.

use super::heap;
use super::kind::{Endpoint, Kind};
use crate::collector::{Collector, Request};
use crate::go;
use crate::outcome::RecordError;

/// This kind's row in the table: it records what `heap` does and shows other values of it first.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::ALLOCS,
    about: "memory allocated, by allocation site (Go only)",
    endpoint: Endpoint {
        name: "allocs",
        about: "A sampling of memory allocations",
        ..heap::ROW.endpoint
    },
    prepare,
    ..heap::ROW
};

/// Attaches to the targets for an allocs profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Allocs>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable("allocs profiles are only available for Go programs".into()))
}

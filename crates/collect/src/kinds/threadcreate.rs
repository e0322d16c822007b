//! The `threadcreate` profile.

use crate::collector::{Collector, Request};
use crate::go;
use crate::outcome::RecordError;
use crate::perf::creations;

/// Attaches to the targets, for a threadcreate profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Threads>(request)? {
        return Ok(collector);
    }
    creations::prepare(request)
}

//! The `heap` profile.

use crate::collector::{Collector, Request};
use crate::go;
use crate::outcome::RecordError;

/// Attaches to the targets, for a heap profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Heap>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable(
        "the profile heap is made of Go programs only, and this is none".into(),
    ))
}

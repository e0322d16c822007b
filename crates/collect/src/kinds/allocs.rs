//! The `allocs` profile.

use crate::collector::{Collector, Request};
use crate::go;
use crate::outcome::RecordError;

/// Attaches to the targets, for a allocs profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Allocs>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable(
        "the profile allocs is made of Go programs only, and this is none".into(),
    ))
}

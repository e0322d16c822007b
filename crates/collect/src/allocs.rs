//! The `allocs` profile.

use crate::session::{Collector, Request};
use crate::{RecordError, go};

/// Attaches to the targets, for a allocs profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Allocs>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable(
        "the profile allocs is made of Go programs only, and this is none".into(),
    ))
}

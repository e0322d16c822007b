//! The `block` profile.

use crate::session::{Collector, Request};
use crate::{RecordError, go};

/// Attaches to the targets, for a block profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Block>(request)? {
        return Ok(collector);
    }
    Err(RecordError::NotApplicable(
        "the profile block is made of Go programs only, and this is none".into(),
    ))
}

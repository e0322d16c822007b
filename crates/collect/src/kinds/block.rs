//! The `block` profile.

use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::{go, waits};

/// Attaches to the targets, for a block profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Block>(request)? {
        return Ok(collector);
    }
    waits::block::prepare(request)
}

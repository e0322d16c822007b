//! The `block` profile.

use crate::session::{Collector, Request};
use crate::{RecordError, go, native};

/// Attaches to the targets, for a block profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Block>(request)? {
        return Ok(collector);
    }
    native::block::prepare(request)
}

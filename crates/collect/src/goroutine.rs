//! The `goroutine` profile.

use crate::session::{Collector, Request};
use crate::{RecordError, go, native};

/// Attaches to the targets, for a goroutine profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Goroutines>(request)? {
        return Ok(collector);
    }
    native::dump::prepare(request)
}

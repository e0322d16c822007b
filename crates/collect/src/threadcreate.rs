//! The `threadcreate` profile.

use crate::session::{Collector, Request};
use crate::{RecordError, go, native};

/// Attaches to the targets, for a threadcreate profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Threads>(request)? {
        return Ok(collector);
    }
    native::threadcreate::prepare(request)
}

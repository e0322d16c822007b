//! The `goroutine` profile.

use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::{go, threads};

/// Attaches to the targets, for a goroutine profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Goroutines>(request)? {
        return Ok(collector);
    }
    threads::dump::prepare(request)
}

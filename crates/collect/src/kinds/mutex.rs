//! The `mutex` profile.

use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::{go, waits};

/// Attaches to the targets, for a mutex profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let go = if request.options.waiters {
        go::prepare::<go::LockWaits>(request)
    } else {
        go::prepare::<go::Mutex>(request)
    };
    if let Some(collector) = go? {
        return Ok(collector);
    }
    waits::mutex::prepare(request)
}

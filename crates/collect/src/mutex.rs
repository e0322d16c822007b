//! The `mutex` profile.

use crate::session::{Collector, Request};
use crate::{RecordError, go, native};

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
    native::mutex::prepare(request)
}

//! The `block` profile.

use crate::RecordError;
use crate::native;
use crate::session::{Collector, Request};

/// Attaches to the targets, for a block profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    native::block::prepare(request)
}

//! The `wall` profile: where threads spend their time, also waiting.

use crate::session::{Collector, Request};
use crate::{RecordError, native};

/// Attaches to the targets, for a wall clock profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    native::ticked::prepare_wall(request)
}

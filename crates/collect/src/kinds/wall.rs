//! The `wall` profile: where threads spend their time, also waiting.

use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::ptrace::ticked;

/// Attaches to the targets, for a wall clock profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    ticked::prepare_wall(request)
}

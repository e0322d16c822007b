//! Defines the `block` profile: where threads wait.

use super::kind::{Endpoint, Kind, Seconds};
use super::options::BLOCK_RATE;
use crate::checks::Subject;
use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::{go, waits};

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::BLOCK,
    about: "where threads wait: for each other, for timers, for I/O",
    endpoint: Endpoint {
        name: "block",
        about: "Stack traces that led to blocking on synchronization primitives",
        seconds: Seconds::Difference,
        lane: "block",
        metric: "block",
        count: None,
        dump: None,
        history: None,
    },
    options: &[BLOCK_RATE],
    prepare,
    check: Subject::waits,
};

/// Attaches to the targets for a block profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Block>(request)? {
        return Ok(collector);
    }
    waits::block::prepare(request)
}

//! The `threadcreate` profile.

use super::kind::{Endpoint, Kind, Seconds};
use crate::collector::{Collector, Request};

use crate::checks::Patient;
use crate::outcome::RecordError;
use crate::perf::creations;
use crate::{counts, go};

/// The row of the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::THREADCREATE,
    about: "where threads were created",
    endpoint: Endpoint {
        name: "threadcreate",
        about: "Stack traces that led to the creation of new OS threads",
        seconds: Seconds::Difference,
        lane: "threadcreate",
        metric: "threadcreate",
        count: Some(counts::thread_count),
        dump: None,
        history: None,
    },
    options: &[],
    prepare,
    check: Patient::creations,
};

/// Attaches to the targets, for a threadcreate profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Threads>(request)? {
        return Ok(collector);
    }
    creations::prepare(request)
}

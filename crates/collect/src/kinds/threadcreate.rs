//! Defines the `threadcreate` profile: where threads were created.

use super::kind::{Endpoint, Kind, Seconds};
use crate::collector::{Collector, Request};

use crate::checks::Subject;
use crate::outcome::RecordError;
use crate::perf::creations;
use crate::{counts, go};

/// This kind's row in the table.
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
    check: Subject::creations,
};

/// Attaches to the targets for a threadcreate profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Threads>(request)? {
        return Ok(collector);
    }
    creations::prepare(request)
}

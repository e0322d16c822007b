//! Defines the `mutex` profile: who holds the locks that others wait for.

use super::block;
use super::kind::{Endpoint, Kind, Seconds};
use crate::collector::{Collector, Request};
use crate::go::{self, BLOCK_RATE, MUTEX_FRACTION};
use crate::outcome::RecordError;
use crate::waits;
use crate::waits::mutex::WAITERS;

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::MUTEX,
    about: "who holds the locks that others wait for",
    endpoint: Endpoint {
        name: "mutex",
        about: "Stack traces of holders of contended mutexes",
        seconds: Seconds::Difference,
        lane: "mutex",
        metric: "mutex",
        count: None,
        dump: None,
        history: None,
    },
    options: &[MUTEX_FRACTION, WAITERS, BLOCK_RATE],
    prepare,
    check: block::check,
};

/// Attaches to the targets for a mutex profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let go = if request.options.own.flag(&WAITERS) {
        go::prepare::<go::LockWaits>(request)
    } else {
        go::prepare::<go::Mutex>(request)
    };
    if let Some(collector) = go? {
        return Ok(collector);
    }
    waits::mutex::prepare(request)
}

//! Defines the `wall` profile: where threads spend their time, running or blocked.

use pprof::KindFacts;

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::Subject;
use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::ptrace::ticked;

/// The same as for `cpu`, but with wall clock time instead of CPU time.
const FACTS: KindFacts = KindFacts {
    name: "wall",
    sample_types: &[("samples", "count"), ("wall", "nanoseconds")],
    period_type: ("wall", "nanoseconds"),
    ..pprof::kinds::CPU
};

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: FACTS,
    about: "where threads spend their time, running or blocked",
    endpoint: Endpoint {
        name: "wall",
        about: "Where threads spend their time, running or blocked. You can specify the duration \
                in the seconds GET parameter.",
        seconds: Seconds::Record,
        lane: "wall",
        metric: "wall",
        count: None,
        dump: None,
        history: None,
    },
    options: &[],
    prepare,
    check: Subject::stop,
};

/// Attaches to the targets for a wall clock profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    ticked::prepare_wall(request, FACTS)
}

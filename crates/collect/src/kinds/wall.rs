//! The `wall` profile: where threads spend their time, also waiting.

use pprof::KindFacts;

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::Patient;
use crate::collector::{Collector, Request};
use crate::outcome::RecordError;
use crate::ptrace::ticked;

/// As cpu, of all time.
const FACTS: KindFacts = KindFacts {
    name: "wall",
    sample_types: &[("samples", "count"), ("wall", "nanoseconds")],
    period_type: ("wall", "nanoseconds"),
    ..pprof::kinds::CPU
};

/// The row of the table.
pub(super) const ROW: Kind = Kind {
    facts: FACTS,
    about: "where threads spend their time, also waiting",
    endpoint: Endpoint {
        name: "wall",
        about: "Where threads spend their time, running or waiting. You can specify the duration in \
                the seconds GET parameter.",
        seconds: Seconds::Record,
        lane: "wall",
        metric: "wall",
        count: None,
        dump: None,
        history: None,
    },
    options: &[],
    prepare,
    check: Patient::stop,
};

/// Attaches to the targets, for a wall clock profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    ticked::prepare_wall(request, FACTS)
}

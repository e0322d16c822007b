//! Defines the `cpu` profile: where CPU time is spent.

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::Subject;
use crate::perf::cpu;

/// This kind's row in the table.
pub(super) const ROW: Kind = Kind {
    facts: pprof::kinds::CPU,
    about: "where CPU time is spent, in user code and in the kernel",
    endpoint: Endpoint {
        name: "profile",
        about: "CPU profile. You can specify the duration in the seconds GET parameter. After you \
                get the profile file, use the go tool pprof command to investigate the profile.",
        seconds: Seconds::Record,
        lane: "cpu",
        metric: "process_cpu",
        count: None,
        dump: None,
        history: None,
    },
    options: &[],
    prepare: cpu::prepare,
    check: Subject::cpu,
};

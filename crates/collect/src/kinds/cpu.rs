//! Defines the `cpu` profile: where CPU time is spent.

use host::rights::Obstacle;

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
    check,
};

/// Checks whether CPU time can be sampled, with perf events or with ptrace.
fn check(subject: &Subject) -> Result<String, Obstacle> {
    let by_perf = subject.perf.clone().and_then(|()| subject.rights.sample_user(&subject.target()));
    match (by_perf, subject.attach()) {
        (Ok(()), _) => Ok("perf events".into()),
        (Err(o), Ok(())) => Ok(format!("ptrace, user mode only ({o})")),
        (Err(o), Err(_)) => Err(o),
    }
}

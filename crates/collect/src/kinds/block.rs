//! Defines the `block` profile: where threads wait.

use std::path::Path;

use host::rights::Obstacle;

use super::kind::{Endpoint, Kind, Seconds};
use crate::checks::{ProgramKind, Subject};
use crate::collector::{Collector, Request};
use crate::go::{self, BLOCK_RATE};
use crate::outcome::RecordError;
use crate::waits;

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
    check,
};

/// Attaches to the targets for a block profile.
fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if let Some(collector) = go::prepare::<go::Block>(request)? {
        return Ok(collector);
    }
    waits::block::prepare(request)
}

/// Checks whether waits and lock contention can be sampled.
pub(super) fn check(subject: &Subject) -> Result<String, Obstacle> {
    if matches!(subject.program, ProgramKind::Go) {
        return subject.memory();
    }
    subject.perf.clone()?;
    let by_perf = subject.rights.sample_user(&subject.target()).and(subject.rights.sample_kernel());
    let how = match (by_bpf(subject), by_perf) {
        (Ok(()), _) => "bpf".to_owned(),
        (Err(o), Ok(())) => format!("perf events, without the unlocking thread ({o})"),
        (Err(o), Err(_)) => return Err(o),
    };
    Ok(subject.with_go(&how, "the runtime's own records"))
}

fn by_bpf(subject: &Subject) -> Result<(), Obstacle> {
    subject.rights.bpf()?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Obstacle {
            reason: "the kernel has no BTF type information (/sys/kernel/btf/vmlinux)".into(),
            fix: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as in distribution kernels".into(),
        });
    }
    Ok(())
}

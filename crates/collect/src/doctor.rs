//! Lists what can be recorded on this machine or of one process. For each thing that cannot be
//! recorded: why, and how to fix it.

use host::rights::{Obstacle, Rights};

pub use crate::checks::Subject;
use crate::kinds::{self, Kind};

/// The result of one check.
#[derive(Debug)]
pub struct Finding {
    /// A kind of profile, or a feature that several kinds use.
    pub what: &'static str,
    /// How it is recorded here, or what prevents it.
    pub verdict: Result<String, Obstacle>,
}

impl Subject {
    /// Runs all checks: first the kinds of profile, then the features that they share.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let unprofilable = self.unprofilable.as_ref().map(|why| Obstacle {
            reason: why.clone(),
            fix: "choose another process (ps -e lists them)".into(),
        });
        let check = |k: &Kind| unprofilable.clone().map_or_else(|| (k.check)(self), Err);
        let kinds = kinds::all().into_iter().map(|k| Finding { what: k.name(), verdict: check(k) });
        let yes = |r: Result<(), Obstacle>, how: &str| r.map(|()| how.to_owned());
        let r = &self.rights;
        let machine = [
            ("kernel frames", yes(self.perf.clone().and(r.sample_kernel()), "in cpu profiles")),
            ("kernel names", yes(r.kernel_symbols(), "from /proc/kallsyms")),
            ("other users", yes(others(r), "any process on this machine")),
            ("--no-stop", self.no_stop()),
            ("replaced files", yes(r.deleted_files(), "deleted and replaced binaries can be read")),
        ];
        kinds.chain(machine.map(|(what, verdict)| Finding { what, verdict })).collect()
    }
}

fn others(rights: &Rights) -> Result<(), Obstacle> {
    if rights.has(host::rights::Capability::SysPtrace) {
        return Ok(());
    }
    Err(Obstacle {
        reason: "profiling other users' processes requires CAP_SYS_PTRACE and CAP_PERFMON".into(),
        fix: host::rights::setcap(),
    })
}

//! Lists what can be recorded here, and of one process: for each thing that cannot, why, and how to
//! fix it.

use host::rights::{Obstacle, Rights};

pub use crate::checks::Patient;
use crate::kinds::{self, Kind};

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// A kind of profile, or what helps several.
    pub what: &'static str,
    /// How it works here, or what stands in the way.
    pub verdict: Result<String, Obstacle>,
}

impl Patient {
    /// Everything, kinds first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let nothing = self.nothing.as_ref().map(|why| Obstacle {
            reason: why.clone(),
            remedy: "name another process (ps -e)".into(),
        });
        let check = |k: &Kind| nothing.clone().map_or_else(|| (k.check)(self), Err);
        let kinds = kinds::all().into_iter().map(|k| Finding { what: k.name(), verdict: check(k) });
        let yes = |r: Result<(), Obstacle>, how: &str| r.map(|()| how.to_owned());
        let r = &self.rights;
        let machine = [
            ("kernel frames", yes(self.perf.clone().and(r.sample_kernel()), "in cpu profiles")),
            ("kernel names", yes(r.kernel_symbols(), "from /proc/kallsyms")),
            ("other users", yes(others(r), "any process of this machine")),
            ("stop nothing", self.look()),
            ("replaced files", yes(r.deleted_files(), "deleted or replaced binaries are found")),
        ];
        kinds.chain(machine.map(|(what, verdict)| Finding { what, verdict })).collect()
    }
}

fn others(rights: &Rights) -> Result<(), Obstacle> {
    if rights.has(host::rights::Capability::SysPtrace) {
        return Ok(());
    }
    Err(Obstacle {
        reason: "processes of other users require CAP_SYS_PTRACE and CAP_PERFMON".into(),
        remedy: host::rights::setcap(),
    })
}

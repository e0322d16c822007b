//! What can be recorded here, and of one process: for each thing that cannot, why, and what mends
//! it.

use std::path::Path;

use target::rights::{Obstacle, Rights, TargetRights};

use crate::kinds::KINDS;

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// A kind of profile, or what helps several.
    pub what: &'static str,
    /// How it works here, or what stands in the way.
    pub verdict: Result<String, Obstacle>,
}

/// What the checks look at.
#[derive(Debug)]
pub struct Patient {
    /// Our rights and the machine's settings.
    pub rights: Rights,
    /// The process, if one was named.
    pub target: Option<TargetRights>,
    /// Whether perf_event_open works at all: no filter forbids it.
    pub perf: Result<(), Obstacle>,
}

impl Patient {
    /// Looks at the machine, and at the process `pid`.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn examine(pid: Option<i32>) -> std::io::Result<Self> {
        let rights = Rights::read()?;
        let target = pid.map(TargetRights::read).transpose()?;
        let perf = try_perf(&rights);
        Ok(Self { rights, target, perf })
    }

    /// Ourselves, where no process was named: what is permitted of an own process.
    fn target(&self) -> TargetRights {
        let own = TargetRights { pid: 0, uid: self.rights.uid, dumpable: true };
        self.target.unwrap_or(own)
    }

    fn attach(&self) -> Result<(), Obstacle> {
        self.rights.attach(&self.target())
    }

    /// Samples of CPU time, by perf events or by ptrace.
    pub(crate) fn cpu(&self) -> Result<String, Obstacle> {
        let by_perf = self.perf.clone().and_then(|()| self.rights.sample_user(&self.target()));
        match (by_perf, self.attach()) {
            (Ok(()), _) => Ok("perf events".into()),
            (Err(o), Ok(())) => {
                Ok(format!("by ptrace, user mode only ({}; to mend it: {})", o.reason, o.remedy))
            }
            (Err(o), Err(_)) => Err(o),
        }
    }

    /// Stacks of threads that are stopped for a moment.
    pub(crate) fn stop(&self) -> Result<String, Obstacle> {
        self.attach().map(|()| "ptrace".into())
    }

    /// Reading the target's memory.
    pub(crate) fn memory(&self) -> Result<String, Obstacle> {
        self.attach().map(|()| "the target's memory".into())
    }

    /// Waiting and locks.
    pub(crate) fn waits(&self) -> Result<String, Obstacle> {
        self.rights.bpf()?;
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(Obstacle {
                reason: "the kernel has no type information (/sys/kernel/btf/vmlinux)".into(),
                remedy: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build theirs"
                    .into(),
            });
        }
        self.perf.clone().map(|()| "bpf; Go programs: their own records".into())
    }

    /// Creation of threads.
    pub(crate) fn creations(&self) -> Result<String, Obstacle> {
        self.attach()?;
        self.rights.tracepoints()?;
        self.perf.clone().map(|()| "tracepoint task:task_newtask; Go programs: their memory".into())
    }

    /// Everything, kinds first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let kinds = KINDS.iter().map(|k| Finding { what: k.name, verdict: (k.check)(self) });
        let yes = |r: Result<(), Obstacle>, how: &str| r.map(|()| how.to_owned());
        let r = &self.rights;
        let machine = [
            ("kernel frames", yes(self.perf.clone().and(r.sample_kernel()), "in cpu profiles")),
            ("kernel names", yes(r.kernel_symbols(), "from /proc/kallsyms")),
            ("other users", yes(others(r), "any process of this machine")),
            ("replaced files", yes(r.deleted_files(), "deleted or replaced binaries are found")),
        ];
        kinds.chain(machine.map(|(what, verdict)| Finding { what, verdict })).collect()
    }
}

fn others(rights: &Rights) -> Result<(), Obstacle> {
    if rights.has(target::rights::Capability::SysPtrace) {
        return Ok(());
    }
    Err(Obstacle {
        reason: "processes of other users need CAP_SYS_PTRACE and CAP_PERFMON".into(),
        remedy: "sudo setcap cap_perfmon,cap_sys_ptrace+ep $(command -v exoprof)".into(),
    })
}

/// Whether perf_event_open is there for us, tried on ourselves.
fn try_perf(rights: &Rights) -> Result<(), Obstacle> {
    let own = TargetRights { pid: 0, uid: rights.uid, dumpable: true };
    rights.sample_user(&own)?;
    events::try_open().map_err(|e| Obstacle {
        reason: if rights.filtered() {
            format!("perf_event_open is blocked ({e}): this process runs under a seccomp filter")
        } else {
            format!("perf_event_open is blocked: {e}")
        },
        remedy: "docker run --security-opt seccomp=unconfined --cap-add PERFMON …, or run exoprof \
                 outside of the container"
            .into(),
    })
}

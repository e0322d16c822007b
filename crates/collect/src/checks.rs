//! Checks which kinds of profile our rights and this machine allow, for one process or in general.

use std::path::Path;
use std::sync::Arc;

use host::rights::{Obstacle, Rights, TargetRights};
use process::OpenError;

use crate::go;

/// The kind of program that the checked process runs.
#[derive(Debug)]
enum Program {
    /// No process was named, or we cannot read its memory.
    Unknown,
    /// A Go program, whose runtime keeps the records that we read.
    Go,
    /// A Go program whose runtime we cannot read, and why.
    UnsupportedGo(String),
    /// Any other program.
    Native,
}

impl Program {
    fn of(pid: i32) -> Self {
        let Ok(process) = process::Process::open(pid) else { return Self::Unknown };
        match go::Program::open(&Arc::new(process)) {
            Ok(Some(_)) => Self::Go,
            Ok(None) => Self::Native,
            Err(crate::outcome::RecordError::NotApplicable(why)) => Self::UnsupportedGo(why),
            Err(_) => Self::Unknown,
        }
    }
}

/// What the checks examine: our rights, and the process if one was named.
#[derive(Debug)]
pub struct Subject {
    /// Our rights, and the kernel settings that affect them.
    pub rights: Rights,
    /// The rights that access to the process requires, if one was named.
    pub target: Option<TargetRights>,
    /// Whether perf_event_open works at all, or what blocks it, such as a seccomp filter.
    pub perf: Result<(), Obstacle>,
    program: Program,
    /// The process that is tracing the target.
    tracer: Option<i32>,
    /// Why the target cannot be profiled at all: it has exited, or is a kernel thread.
    pub(crate) unprofilable: Option<String>,
}

impl Subject {
    /// Examines the machine, and the process `pid` if it is given.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn examine(pid: Option<i32>) -> std::io::Result<Self> {
        let rights = Rights::read()?;
        let target = pid.map(TargetRights::read).transpose()?;
        let perf = try_perf(&rights);
        let program = pid.map_or(Program::Unknown, Program::of);
        let unprofilable = pid.and_then(|pid| match process::Process::open(pid) {
            // Each check judges the rights itself.
            Ok(_) | Err(OpenError::Permission { .. }) => None,
            Err(e) => Some(e.to_string()),
        });
        let tracer = pid.and_then(host::rights::tracer);
        Ok(Self { rights, target, perf, program, tracer, unprofilable })
    }

    /// The target. If no process was named: a process of our own user, to see what is permitted.
    fn target(&self) -> TargetRights {
        let own = TargetRights { pid: 0, uid: self.rights.uid, dumpable: true };
        self.target.unwrap_or(own)
    }

    fn attach(&self) -> Result<(), Obstacle> {
        self.rights.attach(&self.target())
    }

    /// Checks whether CPU time can be sampled, by perf events or by ptrace.
    pub(crate) fn cpu(&self) -> Result<String, Obstacle> {
        let by_perf = self.perf.clone().and_then(|()| self.rights.sample_user(&self.target()));
        match (by_perf, self.attach()) {
            (Ok(()), _) => Ok("perf events".into()),
            (Err(o), Ok(())) => Ok(format!("ptrace, user mode only ({o})")),
            (Err(o), Err(_)) => Err(o),
        }
    }

    /// Checks whether threads can be stopped briefly to copy their stacks.
    pub(crate) fn stop(&self) -> Result<String, Obstacle> {
        self.attach()?;
        match self.tracer {
            Some(by) => Err(Obstacle {
                reason: format!(
                    "already traced by process {by}, and a process can have only one tracer"
                ),
                remedy: format!("end process {by} (a debugger or strace)"),
            }),
            None => Ok("ptrace".into()),
        }
    }

    /// Checks whether stacks can be copied without stopping threads (`--no-stop`).
    pub(crate) fn no_stop(&self) -> Result<String, Obstacle> {
        self.attach()?;
        if matches!(self.program, Program::Go) {
            return Ok("the target's memory".into());
        }
        crate::threads::snapshot::check_no_stop()?;
        Ok(self.with_go("bpf task iterator", "the target's memory"))
    }

    /// Checks whether the current stacks of all goroutines or threads can be read.
    pub(crate) fn stacks_now(&self) -> Result<String, Obstacle> {
        match self.program {
            Program::Go => self.memory(),
            _ => self.stop(),
        }
    }

    /// Checks whether the target's memory can be read.
    fn memory(&self) -> Result<String, Obstacle> {
        self.attach().map(|()| "the target's memory".into())
    }

    /// Checks whether allocations can be read. Only Go's allocator records them.
    pub(crate) fn allocations(&self) -> Result<String, Obstacle> {
        self.attach()?;
        let reason = match &self.program {
            Program::Unknown => return Ok("Go programs: the target's memory".into()),
            Program::Go => return self.memory(),
            Program::UnsupportedGo(why) => why.clone(),
            Program::Native => "only available for Go programs".into(),
        };
        let remedy = "use heaptrack or the allocator's own profiler for a native heap";
        Err(Obstacle { reason, remedy: remedy.into() })
    }

    /// Checks whether waits and lock contention can be sampled.
    pub(crate) fn waits(&self) -> Result<String, Obstacle> {
        if matches!(self.program, Program::Go) {
            return self.memory();
        }
        self.perf.clone()?;
        let by_perf = self.rights.sample_user(&self.target()).and(self.rights.sample_kernel());
        let how = match (self.waits_by_bpf(), by_perf) {
            (Ok(()), _) => "bpf".to_owned(),
            (Err(o), Ok(())) => format!("perf events, without the unlocking thread ({o})"),
            (Err(o), Err(_)) => return Err(o),
        };
        Ok(self.with_go(&how, "the runtime's own records"))
    }

    fn waits_by_bpf(&self) -> Result<(), Obstacle> {
        self.rights.bpf()?;
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(Obstacle {
                reason: "the kernel has no BTF type information (/sys/kernel/btf/vmlinux)".into(),
                remedy: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as in distribution kernels"
                    .into(),
            });
        }
        Ok(())
    }

    /// Checks whether thread creations can be sampled.
    pub(crate) fn creations(&self) -> Result<String, Obstacle> {
        if matches!(self.program, Program::Go) {
            return self.memory();
        }
        self.attach()?;
        events::try_creations()
            .map_err(|e| Obstacle { reason: e.to_string(), remedy: e.fix().into() })?;
        self.rights.tracepoints()?;
        self.perf
            .clone()
            .map(|()| self.with_go("tracepoint task:task_newtask", "the target's memory"))
    }

    /// How native programs are recorded, and how Go programs are if the program's kind is unknown.
    fn with_go(&self, native: &str, go: &str) -> String {
        match self.program {
            Program::Unknown => format!("{native}; Go programs: {go}"),
            _ => native.to_owned(),
        }
    }
}

/// Checks whether perf_event_open works, by opening an event on our own process.
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
                 outside the container"
            .into(),
    })
}

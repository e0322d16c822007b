//! Checks whether our rights and the machine allow what the kinds of profile need, of one process
//! or in general.

use std::path::Path;
use std::sync::Arc;

use host::rights::{Obstacle, Rights, TargetRights};
use process::OpenError;

use crate::go;

/// What kind of program was named.
#[derive(Debug)]
enum Program {
    /// None was named, or it cannot be looked into.
    Unknown,
    /// Its runtime keeps records of its own.
    Go,
    /// A Go program whose runtime is not understood: why.
    StrangeGo(String),
    /// Anything else.
    Native,
}

impl Program {
    fn of(pid: i32) -> Self {
        let Ok(process) = process::Process::open(pid) else { return Self::Unknown };
        match go::Program::open(&Arc::new(process)) {
            Ok(Some(_)) => Self::Go,
            Ok(None) => Self::Native,
            Err(crate::outcome::RecordError::NotApplicable(why)) => Self::StrangeGo(why),
            Err(_) => Self::Unknown,
        }
    }
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
    program: Program,
    /// The process that traces it.
    tracer: Option<i32>,
    /// Why it is nothing to profile: it has ended, or is a part of the kernel.
    pub(crate) nothing: Option<String>,
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
        let program = pid.map_or(Program::Unknown, Program::of);
        let nothing = pid.and_then(|pid| match process::Process::open(pid) {
            // Rights are for each check to judge.
            Ok(_) | Err(OpenError::Permission { .. }) => None,
            Err(e) => Some(e.to_string()),
        });
        let tracer = pid.and_then(host::rights::tracer);
        Ok(Self { rights, target, perf, program, tracer, nothing })
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
            (Err(o), Ok(())) => Ok(format!("by ptrace, user mode only ({o})")),
            (Err(o), Err(_)) => Err(o),
        }
    }

    /// Stacks of threads that are stopped for a moment.
    pub(crate) fn stop(&self) -> Result<String, Obstacle> {
        self.attach()?;
        match self.tracer {
            Some(by) => Err(Obstacle {
                reason: format!("process {by} already traces it, and only one tracer is possible"),
                remedy: format!("end process {by}, a debugger or strace"),
            }),
            None => Ok("ptrace".into()),
        }
    }

    /// Stacks of threads that are not stopped.
    pub(crate) fn look(&self) -> Result<String, Obstacle> {
        self.attach()?;
        if matches!(self.program, Program::Go) {
            return Ok("--no-stop: the target's memory".into());
        }
        crate::threads::snapshot::can_look()?;
        Ok(format!("--no-stop: {}", self.also_go("bpf task iterator", "their memory")))
    }

    /// Stacks of goroutines, or of threads.
    pub(crate) fn stacks_now(&self) -> Result<String, Obstacle> {
        match self.program {
            Program::Go => self.memory(),
            _ => self.stop(),
        }
    }

    /// Reading the target's memory.
    fn memory(&self) -> Result<String, Obstacle> {
        self.attach().map(|()| "the target's memory".into())
    }

    /// The records of an allocator, which only Go's keeps.
    pub(crate) fn allocations(&self) -> Result<String, Obstacle> {
        self.attach()?;
        let reason = match &self.program {
            Program::Unknown => return Ok("Go programs: the target's memory".into()),
            Program::Go => return self.memory(),
            Program::StrangeGo(why) => why.clone(),
            Program::Native => "only available for Go programs".into(),
        };
        let remedy = "use heaptrack or the allocator's own profiler for a native heap";
        Err(Obstacle { reason, remedy: remedy.into() })
    }

    /// Waiting and locks.
    pub(crate) fn waits(&self) -> Result<String, Obstacle> {
        if matches!(self.program, Program::Go) {
            return self.memory();
        }
        self.perf.clone()?;
        let by_perf = self.rights.sample_user(&self.target()).and(self.rights.sample_kernel());
        let how = match (self.waits_by_bpf(), by_perf) {
            (Ok(()), _) => "bpf".to_owned(),
            (Err(o), Ok(())) => format!("by perf events, without the unlocker ({o})"),
            (Err(o), Err(_)) => return Err(o),
        };
        Ok(self.also_go(&how, "their own records"))
    }

    fn waits_by_bpf(&self) -> Result<(), Obstacle> {
        self.rights.bpf()?;
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(Obstacle {
                reason: "the kernel has no type information (/sys/kernel/btf/vmlinux)".into(),
                remedy: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build theirs"
                    .into(),
            });
        }
        Ok(())
    }

    /// Creation of threads.
    pub(crate) fn creations(&self) -> Result<String, Obstacle> {
        if matches!(self.program, Program::Go) {
            return self.memory();
        }
        self.attach()?;
        events::try_creations()
            .map_err(|e| Obstacle { reason: e.to_string(), remedy: e.fix().into() })?;
        self.rights.tracepoints()?;
        self.perf.clone().map(|()| self.also_go("tracepoint task:task_newtask", "their memory"))
    }

    /// How native programs are recorded, and how Go programs are where that is open.
    fn also_go(&self, native: &str, go: &str) -> String {
        match self.program {
            Program::Unknown => format!("{native}; Go programs: {go}"),
            _ => native.to_owned(),
        }
    }
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

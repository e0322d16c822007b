//! Checks what our rights and this machine allow, for one process or in general. Each kind of profile
//! combines these checks in its own file.

use std::sync::Arc;

use host::rights::{Obstacle, Rights, TargetRights};
use process::OpenError;

use crate::go;

/// The kind of program that the checked process runs.
#[derive(Debug)]
pub(crate) enum ProgramKind {
    /// No process was named, or we cannot read its memory.
    Unknown,
    /// A Go program, whose runtime keeps the records that we read.
    Go,
    /// A Go program whose runtime we cannot read, and why.
    UnsupportedGo(String),
    /// Any other program.
    Native,
}

impl ProgramKind {
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
    pub(crate) program: ProgramKind,
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
        let program = pid.map_or(ProgramKind::Unknown, ProgramKind::of);
        let unprofilable = pid.and_then(|pid| match process::Process::open(pid) {
            // Each check judges the rights itself.
            Ok(_) | Err(OpenError::Permission { .. }) => None,
            Err(e) => Some(e.to_string()),
        });
        let tracer = pid.and_then(host::rights::tracer);
        Ok(Self { rights, target, perf, program, tracer, unprofilable })
    }

    /// The target. If no process was named: a process of our own user, to see what is permitted.
    pub(crate) fn target(&self) -> TargetRights {
        let own = TargetRights { pid: 0, uid: self.rights.uid, dumpable: true };
        self.target.unwrap_or(own)
    }

    /// Checks whether the target can be accessed.
    pub(crate) fn attach(&self) -> Result<(), Obstacle> {
        self.rights.attach(&self.target())
    }

    /// Checks whether threads can be stopped briefly to copy their stacks.
    pub(crate) fn stop(&self) -> Result<String, Obstacle> {
        self.attach()?;
        match self.tracer {
            Some(by) => Err(Obstacle {
                reason: format!(
                    "already traced by process {by}, and a process can have only one tracer"
                ),
                fix: format!("end process {by} (a debugger or strace)"),
            }),
            None => Ok("ptrace".into()),
        }
    }

    /// Checks whether stacks can be copied without stopping threads (`--no-stop`).
    pub(crate) fn no_stop(&self) -> Result<String, Obstacle> {
        self.attach()?;
        if matches!(self.program, ProgramKind::Go) {
            return Ok("the target's memory".into());
        }
        crate::threads::snapshot::check_no_stop()?;
        Ok(self.with_go("bpf task iterator", "the target's memory"))
    }

    /// Checks whether the target's memory can be read.
    pub(crate) fn memory(&self) -> Result<String, Obstacle> {
        self.attach().map(|()| "the target's memory".into())
    }

    /// How native programs are recorded, and how Go programs are if the program's kind is unknown.
    pub(crate) fn with_go(&self, native: &str, go: &str) -> String {
        match self.program {
            ProgramKind::Unknown => format!("{native}; Go programs: {go}"),
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
        fix: "docker run --security-opt seccomp=unconfined --cap-add PERFMON …, or run exoprof \
                 outside the container"
            .into(),
    })
}

//! What may be done here, to this target, and what mends it where it may not.
//!
//! The rules are those of the kernel: `perf_event_open(2)`, `ptrace(2)` (access mode checking),
//! capabilities(7), Documentation/admin-guide/perf-security.rst.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procfs::FromRead as _;

/// The capabilities that matter here, by their bit in `CapEff` (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Lock memory beyond the limit.
    IpcLock = 14,
    /// Look into any process.
    SysPtrace = 19,
    /// Nearly everything.
    SysAdmin = 21,
    /// See kernel addresses.
    Syslog = 34,
    /// Use perf events regardless of `perf_event_paranoid`.
    Perfmon = 38,
    /// Load BPF programs.
    Bpf = 39,
    /// Open `/proc/PID/map_files`.
    CheckpointRestore = 40,
}

/// What stands in the way: the reason and the command that mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Lower case, no full stop.
    pub reason: String,
    /// An exact command line, or what else to do.
    pub remedy: String,
}

/// Our own rights and the machine's settings. `None` stands for a setting that this kernel does
/// not have or hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Our seccomp mode: 0 none, 2 a filter, as container runtimes install it; `None` where the
    /// kernel does not tell.
    pub seccomp: Option<u32>,
    /// Our effective user id.
    pub uid: u32,
    /// `CapEff` of `/proc/thread-self/status`.
    pub capabilities: u64,
    /// We are in the machine's first user namespace, so that our capabilities count everywhere.
    pub initial_user_namespace: bool,
    /// `kernel.perf_event_paranoid`: −1 to 2; Debian and Ubuntu know 3 and 4.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.kptr_restrict`: 0 shows kernel addresses, 1 to CAP_SYSLOG, 2 to nobody.
    pub kptr_restrict: Option<i64>,
    /// `kernel.yama.ptrace_scope`: 0 classic, 1 children only, 2 administrators, 3 nobody.
    pub ptrace_scope: Option<i64>,
    /// `kernel.perf_event_mlock_kb`: ring buffer memory per user and CPU, KiB.
    pub perf_event_mlock_kb: Option<i64>,
    /// `RLIMIT_NOFILE`: soft and hard.
    pub nofile: (u64, u64),
    /// `RLIMIT_MEMLOCK` in bytes: soft and hard.
    pub memlock: (u64, u64),
}

/// What decides about access to one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRights {
    /// The process.
    pub pid: i32,
    /// Its effective user id.
    pub uid: u32,
    /// False where the kernel protects it from its own user: set-uid, file capabilities, or
    /// `prctl(PR_SET_DUMPABLE, 0)`.
    pub dumpable: bool,
}

impl TargetRights {
    /// Reads them; this needs no right but to see the process.
    ///
    /// # Errors
    /// The error of reading `/proc/PID`.
    pub fn read(pid: i32) -> io::Result<Self> {
        let owner = fs::metadata(format!("/proc/{pid}"))?.uid();
        let uid = status(&pid.to_string())?.euid;
        // The directory itself always has the process's owner, its files root's when it is not
        // dumpable (proc_pid(5)).
        let files = fs::metadata(format!("/proc/{pid}/maps")).map_or(owner, |m| m.uid());
        Ok(Self { pid, uid, dumpable: files == uid })
    }
}

/// The process that traces this one: a debugger, strace.
#[must_use]
pub fn tracer(pid: i32) -> Option<i32> {
    Some(status(&pid.to_string()).ok()?.tracerpid).filter(|by| *by != 0)
}

/// The status of a process or thread below `/proc`.
fn status(of: &str) -> io::Result<procfs::process::Status> {
    let file = fs::File::open(format!("/proc/{of}/status"))?;
    procfs::process::Status::from_read(file).map_err(io::Error::other)
}

impl Rights {
    /// Reads them.
    ///
    /// # Errors
    /// Only where `/proc/thread-self/status` cannot be read: no `/proc`, nothing works.
    pub fn read() -> io::Result<Self> {
        // The kernel knows rights by thread; all of a program's have the same as a rule.
        let status = status("thread-self")?;
        let setting = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
            text.trim().parse().ok()
        };
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Ok(Self {
            uid: status.euid,
            capabilities: status.capeff,
            initial_user_namespace: uid_map.split_whitespace().eq(["0", "0", "4294967295"]),
            seccomp: status.seccomp,
            perf_event_paranoid: setting("perf_event_paranoid"),
            kptr_restrict: setting("kptr_restrict"),
            ptrace_scope: setting("yama/ptrace_scope"),
            perf_event_mlock_kb: setting("perf_event_mlock_kb"),
            nofile: getrlimit(Resource::RLIMIT_NOFILE)?,
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK)?,
        })
    }

    /// Whether a seccomp filter may refuse us system calls.
    #[must_use]
    pub fn filtered(&self) -> bool {
        self.seccomp == Some(2)
    }

    /// Whether we have the capability.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities & (1 << capability as u8) != 0
    }

    /// CAP_PERFMON, or CAP_SYS_ADMIN which includes it, of the machine itself.
    #[must_use]
    pub fn perfmon(&self) -> bool {
        self.initial_user_namespace
            && (self.has(Capability::Perfmon) || self.has(Capability::SysAdmin))
    }

    /// Sampling the target's user space by perf events.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn sample_user(&self, target: &TargetRights) -> Result<(), Obstacle> {
        if self.perfmon() {
            return Ok(());
        }
        if let Some(level) = self.perf_event_paranoid.filter(|l| *l > 2) {
            return Err(obstacle(
                format!("perf events need privilege here (kernel.perf_event_paranoid is {level})"),
                "sudo sysctl kernel.perf_event_paranoid=1",
            ));
        }
        self.same_user(target)
    }

    /// Kernel frames in samples.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn sample_kernel(&self) -> Result<(), Obstacle> {
        match self.perf_event_paranoid {
            Some(level) if level > 1 && !self.perfmon() => Err(obstacle(
                format!("kernel frames need privilege (kernel.perf_event_paranoid is {level})"),
                "sudo sysctl kernel.perf_event_paranoid=1",
            )),
            _ => Ok(()),
        }
    }

    /// Names for kernel frames, by the addresses in `/proc/kallsyms`.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn kernel_symbols(&self) -> Result<(), Obstacle> {
        match self.kptr_restrict {
            Some(level) if level >= 2 => Err(obstacle(
                "kernel symbols are hidden from everyone (kernel.kptr_restrict is 2)".into(),
                "sudo sysctl kernel.kptr_restrict=0",
            )),
            _ if self.has(Capability::Syslog) => Ok(()),
            Some(1) => Err(obstacle(
                "kernel symbols are hidden (kernel.kptr_restrict is 1)".into(),
                "sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1",
            )),
            // 0 shows them to those only that may sample the kernel without a capability
            // (kernel/ksyms_common.c, `kallsyms_show_value`).
            _ => match self.perf_event_paranoid.filter(|level| *level > 1) {
                Some(level) => Err(obstacle(
                    format!(
                        "kernel symbols need CAP_SYSLOG (kernel.perf_event_paranoid is {level})"
                    ),
                    "sudo sysctl kernel.perf_event_paranoid=1",
                )),
                None => Ok(()),
            },
        }
    }

    /// Tracepoints (off-CPU time, page faults) of the whole machine or with raw data.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn tracepoints(&self) -> Result<(), Obstacle> {
        match self.perf_event_paranoid {
            Some(level) if level > -1 && !self.perfmon() => Err(obstacle(
                format!("tracepoints need privilege (kernel.perf_event_paranoid is {level})"),
                SETCAP,
            )),
            _ => Ok(()),
        }
    }

    /// Uprobes.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn uprobes(&self) -> Result<(), Obstacle> {
        if self.perfmon() {
            return Ok(());
        }
        Err(obstacle("uprobes need CAP_PERFMON".into(), SETCAP))
    }

    /// BPF programs.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn bpf(&self) -> Result<(), Obstacle> {
        let admin = self.has(Capability::SysAdmin);
        let fine = admin || (self.has(Capability::Bpf) && self.has(Capability::Perfmon));
        if fine && self.initial_user_namespace {
            return Ok(());
        }
        Err(obstacle(
            "bpf programs need CAP_BPF and CAP_PERFMON".into(),
            "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace+ep $(command -v exoprof)",
        ))
    }

    /// Files that the target has mapped and that are deleted.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn deleted_files(&self) -> Result<(), Obstacle> {
        let fine = self.has(Capability::SysAdmin) || self.has(Capability::CheckpointRestore);
        if fine && self.initial_user_namespace {
            return Ok(());
        }
        Err(obstacle(
            "deleted or replaced binaries can be opened with CAP_CHECKPOINT_RESTORE only".into(),
            "sudo setcap cap_checkpoint_restore,cap_perfmon,cap_sys_ptrace+ep $(command -v exoprof)",
        ))
    }

    /// Reading the target's memory and stopping its threads (`PTRACE_MODE_ATTACH`).
    ///
    /// # Errors
    /// What stands in the way.
    pub fn attach(&self, target: &TargetRights) -> Result<(), Obstacle> {
        if self.ptrace_scope == Some(3) {
            return Err(obstacle(
                "nobody may attach on this machine until it is rebooted (kernel.yama.ptrace_scope is 3)"
                    .into(),
                "reboot with kernel.yama.ptrace_scope=1 in /etc/sysctl.d",
            ));
        }
        if self.has(Capability::SysPtrace) {
            return Ok(());
        }
        self.same_user(target)?;
        match self.ptrace_scope {
            Some(1) => Err(obstacle(
                "only a parent may attach (kernel.yama.ptrace_scope is 1)".into(),
                "sudo sysctl kernel.yama.ptrace_scope=0",
            )),
            Some(2) => Err(obstacle(
                "only an administrator may attach (kernel.yama.ptrace_scope is 2)".into(),
                SETCAP,
            )),
            _ => Ok(()),
        }
    }

    fn same_user(&self, target: &TargetRights) -> Result<(), Obstacle> {
        if self.has(Capability::SysPtrace) {
            return Ok(());
        }
        let TargetRights { pid, uid, dumpable } = *target;
        if uid != self.uid {
            let reason = format!("process {pid} belongs to uid {uid}, we are uid {}", self.uid);
            return Err(obstacle(reason, SETCAP));
        }
        if !dumpable {
            let reason = format!("process {pid} is protected (set-uid, or made not dumpable)");
            return Err(obstacle(reason, SETCAP));
        }
        Ok(())
    }

    /// Room for ring buffers of `bytes` in all, on `cpus` CPUs.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn ring_buffers(&self, bytes: u64, cpus: u64) -> Result<(), Obstacle> {
        // A negative paranoid level or CAP_IPC_LOCK lifts the limit (kernel/events/core.c, perf_mmap).
        if self.has(Capability::IpcLock) || self.perf_event_paranoid.is_some_and(|l| l < 0) {
            return Ok(());
        }
        let per_cpu = self.perf_event_mlock_kb.and_then(|kb| u64::try_from(kb).ok()).unwrap_or(516);
        let free = per_cpu.saturating_mul(1024).saturating_mul(cpus).saturating_add(self.memlock.0);
        if bytes <= free {
            return Ok(());
        }
        let need = bytes.saturating_sub(self.memlock.0).div_ceil(1024).div_ceil(cpus.max(1));
        Err(Obstacle {
            reason: format!(
                "ring buffers of {} KiB exceed the limit of {} KiB",
                bytes / 1024,
                free / 1024
            ),
            remedy: format!("sudo sysctl kernel.perf_event_mlock_kb={need}"),
        })
    }
}

const SETCAP: &str = "sudo setcap cap_perfmon,cap_sys_ptrace+ep $(command -v exoprof)";

fn obstacle(reason: String, remedy: &str) -> Obstacle {
    Obstacle { reason, remedy: remedy.into() }
}

/// Raises our soft limit of open files to the hard one; gives the limit that holds then.
///
/// # Errors
/// The error of `getrlimit` or `setrlimit`.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Rights {
        Rights {
            seccomp: Some(0),
            uid: 1000,
            capabilities: 0,
            initial_user_namespace: true,
            perf_event_paranoid: Some(2),
            kptr_restrict: Some(0),
            ptrace_scope: Some(0),
            perf_event_mlock_kb: Some(516),
            nofile: (1024, 4096),
            memlock: (64 * 1024, 64 * 1024),
        }
    }

    const OWN: TargetRights = TargetRights { pid: 7, uid: 1000, dumpable: true };

    fn remedy(r: Result<(), Obstacle>) -> String {
        r.unwrap_err().remedy
    }

    #[test]
    fn a_plain_user_samples_own_processes_without_the_kernel() {
        let r = nobody();
        assert_eq!(r.sample_user(&OWN), Ok(()));
        assert_eq!(r.attach(&OWN), Ok(()));
        assert_eq!(remedy(r.sample_kernel()), "sudo sysctl kernel.perf_event_paranoid=1");
        assert!(r.sample_user(&TargetRights { uid: 0, ..OWN }).is_err());
        assert!(r.sample_user(&TargetRights { dumpable: false, ..OWN }).is_err());
        assert!(r.uprobes().is_err() && r.bpf().is_err() && r.deleted_files().is_err());
    }

    #[test]
    fn debians_paranoid_levels_shut_plain_users_out() {
        let r = Rights { perf_event_paranoid: Some(3), ..nobody() };
        assert_eq!(remedy(r.sample_user(&OWN)), "sudo sysctl kernel.perf_event_paranoid=1");
        let r = Rights { capabilities: 1 << 38, ..r };
        assert_eq!(r.sample_user(&TargetRights { uid: 0, ..OWN }), Ok(()));
        assert_eq!(r.sample_kernel(), Ok(()));
    }

    /// As the kernel's `kallsyms_show_value` has it, and as tried on Linux 6.18.
    #[test]
    fn kernel_names_are_shown_to_whom_the_kernel_shows_them() {
        let with = |kptr, paranoid| Rights {
            kptr_restrict: Some(kptr),
            perf_event_paranoid: Some(paranoid),
            ..nobody()
        };
        assert_eq!(with(0, 1).kernel_symbols(), Ok(()));
        let hidden = remedy(with(0, 2).kernel_symbols());
        assert_eq!(hidden, "sudo sysctl kernel.perf_event_paranoid=1");
        assert!(with(1, 1).kernel_symbols().is_err());
        let capable = |kptr| Rights { capabilities: 1 << 34, ..with(kptr, 2) };
        assert!(capable(0).kernel_symbols().is_ok() && capable(1).kernel_symbols().is_ok());
        assert!(capable(2).kernel_symbols().is_err());
    }

    #[test]
    fn yama_shuts_out_by_degrees() {
        let scope = |n| Rights { ptrace_scope: Some(n), ..nobody() };
        assert_eq!(remedy(scope(1).attach(&OWN)), "sudo sysctl kernel.yama.ptrace_scope=0");
        assert!(scope(2).attach(&OWN).is_err());
        let capable = |n| Rights { capabilities: 1 << 19, ..scope(n) };
        assert_eq!(capable(2).attach(&OWN), Ok(()));
        assert!(capable(3).attach(&OWN).is_err());
    }

    #[test]
    fn capabilities_of_another_user_namespace_do_not_count() {
        let r = Rights { capabilities: u64::MAX, initial_user_namespace: false, ..nobody() };
        assert!(r.sample_kernel().is_err() && r.bpf().is_err());
    }

    #[test]
    fn the_ring_buffer_limit_is_per_cpu() {
        let r = nobody();
        assert_eq!(r.ring_buffers((516 * 2 + 64) * 1024, 2), Ok(()));
        let too_much = r.ring_buffers((600 * 2 + 64) * 1024, 2);
        assert_eq!(remedy(too_much), "sudo sysctl kernel.perf_event_mlock_kb=600");
    }
}

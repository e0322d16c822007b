//! Checks what we are permitted to do to a process, and names the command that permits the rest.
//!
//! The rules are the kernel's: perf_event_open(2), ptrace(2) ("Ptrace access mode checking"),
//! capabilities(7), Documentation/admin-guide/perf-security.rst.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::status;

/// The capabilities that a profiler needs, by their bit in `CapEff` (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Lock memory beyond the limit.
    IpcLock = 14,
    /// Read the memory of any process, and trace it.
    SysPtrace = 19,
    /// Nearly everything.
    SysAdmin = 21,
    /// Read kernel addresses.
    Syslog = 34,
    /// Use perf events regardless of `perf_event_paranoid`.
    Perfmon = 38,
    /// Load BPF programs.
    Bpf = 39,
    /// Open `/proc/PID/map_files`.
    CheckpointRestore = 40,
}

/// What stands in the way: the reason, and the command that removes it.
///
/// Displayed as "reason; fix: command".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Lower case, no full stop.
    pub reason: String,
    /// A command line that can be pasted, or what else to do.
    pub fix: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; fix: {}", self.reason, self.fix)
    }
}

/// What this process is permitted to do, and the machine's settings that decide it. `None`: this
/// kernel lacks the setting, or hides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Our seccomp mode: 0 none, 2 a filter, as container runtimes install it.
    pub seccomp: Option<u32>,
    /// Our effective user id.
    pub uid: u32,
    /// `CapEff` of `/proc/thread-self/status`.
    pub capabilities: u64,
    /// We are in the machine's first user namespace, where capabilities count for perf and BPF.
    pub initial_user_namespace: bool,
    /// `kernel.perf_event_paranoid`: −1 to 2; Debian and Ubuntu add 3 and 4.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.kptr_restrict`. Who sees kernel addresses: 0 everyone, 1 only with CAP_SYSLOG,
    /// 2 nobody.
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

/// What decides whether we may access one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRights {
    /// The process.
    pub pid: i32,
    /// Its effective user id.
    pub uid: u32,
    /// False where the kernel protects it from its own user: a set-uid program, file capabilities,
    /// or `prctl(PR_SET_DUMPABLE, 0)`.
    pub dumpable: bool,
}

impl TargetRights {
    /// Reads them for a process of our PID namespace. It only has to be visible to us.
    ///
    /// # Errors
    /// The error of reading `/proc/PID`: `NotFound` where the process is gone.
    pub fn read(pid: i32) -> io::Result<Self> {
        let owner = fs::metadata(format!("/proc/{pid}"))?.uid();
        let uid = status::read(&pid.to_string())?.euid;
        // The directory itself always has the process's owner, its files root's when it is not
        // dumpable (proc_pid(5)).
        let files = fs::metadata(format!("/proc/{pid}/maps")).map_or(owner, |m| m.uid());
        Ok(Self { pid, uid, dumpable: files == uid })
    }
}

/// TID of the tracer (such as gdb or strace) of the process' main thread.
#[must_use]
pub fn tracer(pid: i32) -> Option<i32> {
    status::tracer(&status::read(&pid.to_string()).ok()?)
}

impl Rights {
    /// Reads them, for the calling thread.
    ///
    /// # Errors
    /// The error of reading `/proc/thread-self/status`: without `/proc` nothing works.
    pub fn read() -> io::Result<Self> {
        // Capabilities are a thread's; the threads of a program usually have the same.
        let status = status::read("thread-self")?;
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

    /// Whether a seccomp filter may deny us system calls.
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

    /// Checks whether perf events may sample the user-mode code of a process.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn sample_user(&self, target: &TargetRights) -> Result<(), Obstacle> {
        if self.perfmon() {
            return Ok(());
        }
        if let Some(level) = self.perf_event_paranoid.filter(|l| *l > 2) {
            return Err(obstacle(
                format!("perf events require privileges (kernel.perf_event_paranoid is {level})"),
                "sudo sysctl kernel.perf_event_paranoid=1",
            ));
        }
        self.same_user(target)
    }

    /// Checks whether samples may include kernel frames.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn sample_kernel(&self) -> Result<(), Obstacle> {
        match self.perf_event_paranoid {
            Some(level) if level > 1 && !self.perfmon() => Err(obstacle(
                format!("kernel frames require privileges (kernel.perf_event_paranoid is {level})"),
                "sudo sysctl kernel.perf_event_paranoid=1",
            )),
            _ => Ok(()),
        }
    }

    /// Checks whether `/proc/kallsyms` shows us the addresses that kernel frames are named by.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn kernel_symbols(&self) -> Result<(), Obstacle> {
        match self.kptr_restrict {
            Some(level) if level >= 2 => Err(obstacle(
                "kernel symbols are hidden from everyone (kernel.kptr_restrict is 2)",
                "sudo sysctl kernel.kptr_restrict=0",
            )),
            _ if self.has(Capability::Syslog) => Ok(()),
            Some(1) => Err(obstacle(
                "kernel symbols require CAP_SYSLOG (kernel.kptr_restrict is 1)",
                "sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1",
            )),
            // With 0, only users who may sample the kernel without a capability see them
            // (kernel/ksyms_common.c, `kallsyms_show_value`).
            _ => match self.perf_event_paranoid.filter(|level| *level > 1) {
                Some(level) => Err(obstacle(
                    format!(
                        "kernel symbols require CAP_SYSLOG (kernel.perf_event_paranoid is {level})"
                    ),
                    "sudo sysctl kernel.perf_event_paranoid=1",
                )),
                None => Ok(()),
            },
        }
    }

    /// Checks whether perf events may sample tracepoints on all CPUs.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn tracepoints(&self) -> Result<(), Obstacle> {
        match self.perf_event_paranoid {
            Some(level) if level > -1 && !self.perfmon() => Err(obstacle(
                format!("tracepoints require CAP_PERFMON (kernel.perf_event_paranoid is {level})"),
                setcap(),
            )),
            _ => Ok(()),
        }
    }

    /// Checks whether uprobes may be set.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn uprobes(&self) -> Result<(), Obstacle> {
        if self.perfmon() {
            return Ok(());
        }
        Err(obstacle("uprobes require CAP_PERFMON", setcap()))
    }

    /// Checks whether BPF programs may be loaded.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn bpf(&self) -> Result<(), Obstacle> {
        let admin = self.has(Capability::SysAdmin);
        let fine = admin || (self.has(Capability::Bpf) && self.has(Capability::Perfmon));
        if fine && self.initial_user_namespace {
            return Ok(());
        }
        Err(obstacle("BPF programs require CAP_BPF and CAP_PERFMON", setcap()))
    }

    /// Checks whether files that a process has mapped can be opened once they are deleted.
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn deleted_files(&self) -> Result<(), Obstacle> {
        let fine = self.has(Capability::SysAdmin) || self.has(Capability::CheckpointRestore);
        if fine && self.initial_user_namespace {
            return Ok(());
        }
        let reason = "opening deleted or replaced binaries requires CAP_CHECKPOINT_RESTORE";
        Err(obstacle(reason, setcap()))
    }

    /// Checks whether a process' memory may be read and its threads stopped (`PTRACE_MODE_ATTACH`).
    ///
    /// # Errors
    /// The [`Obstacle`].
    pub fn attach(&self, target: &TargetRights) -> Result<(), Obstacle> {
        if self.ptrace_scope == Some(3) {
            return Err(obstacle(
                "ptrace is disabled until the next boot (kernel.yama.ptrace_scope is 3)",
                "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d and reboot",
            ));
        }
        if self.has(Capability::SysPtrace) {
            return Ok(());
        }
        self.same_user(target)?;
        match self.ptrace_scope {
            Some(1) => Err(obstacle(
                "only a parent may trace a process (kernel.yama.ptrace_scope is 1)",
                "sudo sysctl kernel.yama.ptrace_scope=0",
            )),
            Some(2) => Err(obstacle(
                "tracing requires CAP_SYS_PTRACE (kernel.yama.ptrace_scope is 2)",
                setcap(),
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
            let reason =
                format!("process {pid} belongs to uid {uid}, exoprof runs as uid {}", self.uid);
            return Err(obstacle(reason, setcap()));
        }
        if !dumpable {
            let reason =
                format!("process {pid} is protected from its own user (set-uid or not dumpable)");
            return Err(obstacle(reason, setcap()));
        }
        Ok(())
    }

    /// Checks whether ring buffers of `bytes` in total may be mapped, on `cpus` CPUs.
    ///
    /// # Errors
    /// The [`Obstacle`].
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
                "ring buffers of {} KiB exceed the locked-memory limit of {} KiB",
                bytes / 1024,
                free / 1024
            ),
            fix: format!("sudo sysctl kernel.perf_event_mlock_kb={need}"),
        })
    }
}

/// The command that gives our program all capabilities that it can use: a second `setcap` would
/// take away those of the first.
#[must_use]
pub fn setcap() -> String {
    let program = std::env::current_exe().ok().map(|path| path.display().to_string());
    let program = match program {
        Some(path) if !path.contains(|c: char| c.is_whitespace() || "'\"\\$`&;()".contains(c)) => {
            path
        }
        _ => "$(command -v exoprof)".to_owned(),
    };
    format!("sudo setcap {CAPABILITIES}+ep {program}")
}

const CAPABILITIES: &str = "cap_bpf,cap_checkpoint_restore,cap_perfmon,cap_sys_ptrace,cap_syslog";

fn obstacle(reason: impl Into<String>, fix: impl Into<String>) -> Obstacle {
    Obstacle { reason: reason.into(), fix: fix.into() }
}

/// Raises our soft limit of open files to the hard one, and returns it.
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

    fn fix(r: Result<(), Obstacle>) -> String {
        r.unwrap_err().fix
    }

    #[test]
    fn a_plain_user_samples_own_processes_without_the_kernel() {
        let r = nobody();
        assert_eq!(r.sample_user(&OWN), Ok(()));
        assert_eq!(r.attach(&OWN), Ok(()));
        assert_eq!(fix(r.sample_kernel()), "sudo sysctl kernel.perf_event_paranoid=1");
        assert!(r.sample_user(&TargetRights { uid: 0, ..OWN }).is_err());
        assert!(r.sample_user(&TargetRights { dumpable: false, ..OWN }).is_err());
        assert!(r.uprobes().is_err() && r.bpf().is_err() && r.deleted_files().is_err());
    }

    #[test]
    fn debians_paranoid_levels_exclude_plain_users() {
        let r = Rights { perf_event_paranoid: Some(3), ..nobody() };
        assert_eq!(fix(r.sample_user(&OWN)), "sudo sysctl kernel.perf_event_paranoid=1");
        let r = Rights { capabilities: 1 << 38, ..r };
        assert_eq!(r.sample_user(&TargetRights { uid: 0, ..OWN }), Ok(()));
        assert_eq!(r.sample_kernel(), Ok(()));
    }

    /// As the kernel's `kallsyms_show_value` has it, and as tried on Linux 6.18.
    #[test]
    fn kernel_symbols_follow_the_rule_of_kallsyms() {
        let with = |kptr, paranoid| Rights {
            kptr_restrict: Some(kptr),
            perf_event_paranoid: Some(paranoid),
            ..nobody()
        };
        assert_eq!(with(0, 1).kernel_symbols(), Ok(()));
        let hidden = fix(with(0, 2).kernel_symbols());
        assert_eq!(hidden, "sudo sysctl kernel.perf_event_paranoid=1");
        assert!(with(1, 1).kernel_symbols().is_err());
        let capable = |kptr| Rights { capabilities: 1 << 34, ..with(kptr, 2) };
        assert!(capable(0).kernel_symbols().is_ok() && capable(1).kernel_symbols().is_ok());
        assert!(capable(2).kernel_symbols().is_err());
    }

    #[test]
    fn yama_scopes_exclude_more_and_more() {
        let scope = |n| Rights { ptrace_scope: Some(n), ..nobody() };
        assert_eq!(fix(scope(1).attach(&OWN)), "sudo sysctl kernel.yama.ptrace_scope=0");
        assert!(scope(2).attach(&OWN).is_err());
        let capable = |n| Rights { capabilities: 1 << 19, ..scope(n) };
        assert_eq!(capable(2).attach(&OWN), Ok(()));
        assert!(capable(3).attach(&OWN).is_err());
    }

    #[test]
    fn one_setcap_command_gives_all_capabilities() {
        let command = nobody().bpf().unwrap_err().fix;
        assert_eq!(nobody().deleted_files().unwrap_err().fix, command);
        let program = command.split_once("+ep ").unwrap().1;
        assert!(std::path::Path::new(program).is_absolute(), "{command}");
        assert!(
            nobody().uprobes().unwrap_err().to_string().contains("; fix: sudo setcap cap_bpf,")
        );
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
        assert_eq!(fix(too_much), "sudo sysctl kernel.perf_event_mlock_kb=600");
    }
}

//! Explains why the kernel does not run a BPF program.

use std::error::Error;
use std::fmt;
use std::io;

use aya::BtfError;
use aya::programs::ProgramError;

/// Why a BPF program cannot be loaded, attached or used: what failed, in which object, and
/// why.
#[derive(Debug)]
pub struct BpfError {
    /// The object, named after its source: `waits` is made from `bpf/waits.bpf.c`.
    pub object: &'static str,
    /// What failed.
    pub step: BpfStep,
    /// Why.
    pub obstacle: BpfObstacle,
}

/// A step on the way to running a BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfStep {
    /// Create the object's maps and fit its programs to the running kernel.
    Open,
    /// Have the kernel verify and load this program.
    Load(&'static str),
    /// Attach this program to its tracepoint or perf event.
    Attach(&'static str),
    /// Run this iterator over the machine's threads.
    Iterate(&'static str),
    /// Read or write this map.
    Map(&'static str),
}

/// Why a BPF program cannot be used.
#[derive(Debug)]
pub enum BpfObstacle {
    /// EPERM: we lack CAP_BPF or CAP_PERFMON, or a seccomp filter forbids bpf(2).
    NotPermitted,
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`, so that the program cannot be fitted
    /// to its structures.
    NoTypeInformation,
    /// The kernel lacks a feature: the system's reason, and the Linux version that has it.
    Unsupported {
        /// The system's reason, such as EINVAL.
        source: io::Error,
        /// The first Linux version that has what the program uses.
        since: &'static str,
    },
    /// ENOMEM: the kernel has no memory for the maps or the program.
    NoMemory,
    /// The object lacks this program or map, or has one of another type.
    Missing,
    /// The process or thread is gone (ESRCH).
    Gone,
    /// Anything else, with its causes in one line.
    Other(String),
}

impl BpfError {
    /// Classifies an error of the library or the system.
    pub(crate) fn new(
        object: &'static str,
        since: &'static str,
        step: BpfStep,
        error: &(dyn Error + 'static),
    ) -> Self {
        let obstacle = BpfObstacle::of(error, since);
        tracing::debug!(object, %step, %obstacle, "bpf refused");
        if let Some(ProgramError::LoadError { verifier_log, .. }) = causes(error).find_map(cast) {
            // One event a line: events are printed as one line each.
            for line in verifier_log.to_string().lines() {
                tracing::trace!(object, %step, %line, "bpf verifier");
            }
        }
        Self { object, step, obstacle }
    }

    /// What failed, and why, without the fix.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("cannot {} ({}): {}", self.step, self.object, self.obstacle.reason())
    }

    /// What removes the obstacle, if anything does.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        self.obstacle.fix()
    }

    pub(crate) fn missing(object: &'static str, step: BpfStep) -> Self {
        Self { object, step, obstacle: BpfObstacle::Missing }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current)
    })
}

fn cast<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    error.downcast_ref()
}

impl BpfObstacle {
    fn of(error: &(dyn Error + 'static), since: &'static str) -> Self {
        if let Some(ProgramError::UnexpectedProgramType) = causes(error).find_map(cast) {
            return Self::Missing;
        }
        let system = causes(error).find_map(cast::<io::Error>);
        let number = system.and_then(io::Error::raw_os_error);
        if let (Some(BtfError::FileError { .. }), Some(libc::ENOENT)) =
            (causes(error).find_map(cast), number)
        {
            return Self::NoTypeInformation;
        }
        match number {
            Some(libc::EPERM) => Self::NotPermitted,
            Some(libc::ENOMEM) => Self::NoMemory,
            Some(libc::ESRCH) => Self::Gone,
            // EACCES: the verifier cannot prove that an access is safe.
            Some(
                n @ (libc::EINVAL
                | libc::EACCES
                | libc::ENOENT
                | libc::ENOSYS
                | libc::EOPNOTSUPP
                | libc::E2BIG),
            ) => Self::Unsupported { source: io::Error::from_raw_os_error(n), since },
            _ => Self::Other(one_line(error)),
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::NotPermitted => "not permitted without CAP_BPF and CAP_PERFMON".into(),
            Self::NoTypeInformation => {
                "the kernel has no type information (/sys/kernel/btf/vmlinux)".into()
            }
            Self::Unsupported { source, since } => format!(
                "the kernel rejects it ({}); requires Linux {since} or later",
                without_number(&source.to_string())
            ),
            Self::NoMemory => "the kernel could not allocate memory for it".into(),
            Self::Missing => "the BPF object does not contain it".into(),
            Self::Gone => "the process has exited".into(),
            Self::Other(why) => why.clone(),
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::NotPermitted => Some(host::rights::setcap()),
            Self::NoTypeInformation => Some("boot a kernel with CONFIG_DEBUG_INFO_BTF=y".into()),
            _ => None,
        }
    }
}

impl fmt::Display for BpfStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open the BPF object"),
            Self::Load(name) => write!(f, "load the BPF program {name}"),
            Self::Attach(name) => write!(f, "attach the BPF program {name}"),
            Self::Iterate(name) => write!(f, "run the BPF iterator {name}"),
            Self::Map(name) => write!(f, "use the BPF map {name}"),
        }
    }
}

impl fmt::Display for BpfObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())?;
        self.fix().map_or(Ok(()), |fix| write!(f, "; fix: {fix}"))
    }
}

impl fmt::Display for BpfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} ({}): {}", self.step, self.object, self.obstacle)
    }
}

impl Error for BpfError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.obstacle {
            BpfObstacle::Unsupported { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An error with its causes, without what the verifier adds in further lines.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        let line = without_number(text.lines().next().unwrap_or_default()).to_owned();
        // Some errors repeat the text of their cause.
        if !parts.last().is_some_and(|last| last.ends_with(&line)) {
            parts.push(line);
        }
    }
    parts.join(": ").chars().take(200).collect()
}

/// The system's words for an error without the number that Rust adds.
fn without_number(text: &str) -> &str {
    text.split_once(" (os error").map_or(text, |(words, _)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: i32) -> BpfError {
        let io_error = io::Error::from_raw_os_error(number);
        let error = ProgramError::SyscallError(aya::sys::SyscallError { call: "bpf", io_error });
        BpfError::new("waits", "5.11", BpfStep::Load("on_switch"), &error)
    }

    #[test]
    fn errors_name_object_program_and_obstacle() {
        assert!(matches!(refused(libc::EPERM).obstacle, BpfObstacle::NotPermitted));
        let text = refused(libc::EPERM).to_string();
        let expected = "cannot load the BPF program on_switch (waits): not permitted without \
                        CAP_BPF and CAP_PERFMON; fix: sudo setcap ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(
            refused(libc::EINVAL).to_string(),
            "cannot load the BPF program on_switch (waits): the kernel rejects it (Invalid \
             argument); requires Linux 5.11 or later"
        );
        assert!(matches!(refused(libc::ENOMEM).obstacle, BpfObstacle::NoMemory));
        assert!(matches!(refused(libc::ESRCH).obstacle, BpfObstacle::Gone));
    }

    #[test]
    fn other_errors_are_one_line_without_numbers() {
        let BpfObstacle::Other(why) = refused(libc::EBUSY).obstacle else { panic!("another") };
        assert!(why.contains("bpf") && !why.contains("os error"), "{why}");
    }

    #[test]
    fn a_kernel_without_types_is_named() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let error = BtfError::FileError { path: "/sys/kernel/btf/vmlinux".into(), error };
        let error = BpfError::new("stacks", "5.18", BpfStep::Open, &error);
        assert!(matches!(error.obstacle, BpfObstacle::NoTypeInformation), "{error}");
    }
}

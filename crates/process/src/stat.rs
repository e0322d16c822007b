//! Parses `/proc/PID/stat` and `cgroup` (layout: proc_pid_stat(5), cgroups(7)).
//!
//! The procfs crate is not used: it fails for a name that is not UTF-8 and parses fifty fields for
//! each thread.

/// `PF_KTHREAD` of the task flags (linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

/// `PF_EXITING`: it is in the kernel's `do_exit`, and executes no more of its program.
const PF_EXITING: u64 = 0x4;

/// What is used of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Field 3.
    pub state: u8,
    /// Field 4.
    pub parent: i32,
    /// Field 9 has `PF_KTHREAD`.
    pub kernel_thread: bool,
    /// Field 9 has `PF_EXITING`.
    pub exiting: bool,
    /// Fields 14 and 15, clock ticks: this task (or process) in user mode, and in the kernel.
    pub own_ticks: (u64, u64),
    /// Fields 16 and 17, clock ticks: children that were waited for.
    pub children_ticks: u64,
    /// Field 22, clock ticks since boot.
    pub start_time: u64,
    /// Fields 26 and 28, addresses: where the program's code and its stack begin. Meaningless
    /// without permission to trace the process.
    pub program_at: (u64, u64),
}

impl Stat {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        // The name may itself hold spaces and parentheses; the last `)` ends it.
        let after = text.iter().rposition(|b| *b == b')')? + 1;
        let mut fields =
            text.get(after..)?.split(u8::is_ascii_whitespace).filter(|f| !f.is_empty());
        let state = *fields.next()?.first()?;
        // 0 where the parent is in no namespace that we see.
        let parent = decimal(fields.next()?).and_then(|n| i32::try_from(n).ok())?;
        // From here on `nth` counts from field 5.
        let flags = decimal(fields.nth(9 - 5)?)?;
        let utime = decimal(fields.nth(14 - 10)?)?;
        let stime = decimal(fields.next()?)?;
        let cutime = decimal(fields.next()?)?;
        let cstime = decimal(fields.next()?)?;
        let start_time = decimal(fields.nth(22 - 18)?)?;
        let mut address = |nth: usize| fields.nth(nth).and_then(decimal).unwrap_or(0);
        let program_at = (address(26 - 23), address(28 - 27));
        Some(Self {
            state,
            parent,
            kernel_thread: flags & PF_KTHREAD != 0,
            exiting: flags & PF_EXITING != 0,
            own_ticks: (utime, stime),
            children_ticks: cutime.saturating_add(cstime),
            start_time,
            program_at,
        })
    }

    /// Dead, but for its entry in the table.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The id of the container in a `/proc/PID/cgroup` text: 64 hex digits, as containerd, CRI-O,
/// Docker and Podman name their groups. The innermost one counts.
pub(crate) fn container_id(cgroup: &[u8]) -> Option<String> {
    let mut found = None;
    for run in cgroup.split(|b| !b.is_ascii_hexdigit()) {
        if run.len() == 64 {
            found = text_of(run).map(str::to_owned);
        }
    }
    found
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Decimal digits only; no sign, no spaces, no overflow.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let text = b"12 (a) R 1 (x) S 1 12 12 0 -1 2097152 1 2 3 4 50 6 70 8 20 0 3 0 9999 1 2 3 64 65 66\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.state, b'S');
        assert!(stat.kernel_thread);
        assert_eq!((stat.own_ticks, stat.children_ticks, stat.start_time), ((50, 6), 78, 9999));
        assert_eq!(stat.program_at, (64, 66));
        assert_eq!(Stat::parse(b"12 (a) S 1 2"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn the_innermost_container_is_named() {
        let (outer, inner) = ("a".repeat(64), "0123456789abcdef".repeat(4));
        let text = format!("0::/kubepods/pod1-2/cri-containerd-{outer}.scope/docker/{inner}\n");
        assert_eq!(container_id(text.as_bytes()), Some(inner));
        assert_eq!(container_id(b"0::/user.slice/session-1.scope\n"), None);
        assert_eq!(container_id(format!("0::/{}", "a".repeat(65)).as_bytes()), None);
    }
}

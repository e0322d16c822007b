//! Parses the samples of waiting that BPF programs write (`bpf/waits.h`).

use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::bpf::waits::{
    COUNTERS, FLAG_STACK_CHANGED, FLAG_WOKEN, KERNEL_FRAMES, RECORD_WAIT, RECORD_WAKER, RecordHead,
    Waiting as ListedWait,
};

/// Counters of the BPF programs since they were attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitCounters {
    /// Waits that were sampled.
    pub picked: u64,
    /// Records that were written.
    pub emitted: u64,
    /// Records that were lost: the ring had no space.
    pub failed: u64,
    /// Wakeups that were sampled.
    pub wakes_picked: u64,
    /// Sampled threads without restartable sequences.
    pub no_rseq: u64,
    /// Waits for a futex that were not tracked: the table had no space.
    pub untracked: u64,
    /// Threads that could not be followed: the kernel had no memory.
    pub unfollowed: u64,
}

impl WaitCounters {
    pub(super) fn from_array(n: [u64; COUNTERS]) -> Self {
        let [picked, emitted, failed, wakes_picked, no_rseq, untracked, unfollowed] = n;
        Self { picked, emitted, failed, wakes_picked, no_rseq, untracked, unfollowed }
    }
}

/// What a thread waits in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitReason {
    /// The system call's number; `None` in a page fault, or when preempted.
    pub syscall: Option<u32>,
    /// The task's state (linux/sched.h); 0 where it was preempted.
    pub state: u32,
    /// The futex operation without its flags, and the expected value.
    pub futex: (u32, u32),
}

/// A count in 1/1024.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fixed(pub u64);

impl Fixed {
    /// The count.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0 as f64 / 1024.0
    }
}

/// Identifies a wait by its thread and its start, to join the waiting and the waking side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId {
    /// The thread, in the first PID namespace.
    pub tid: u32,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub out: u64,
}

/// A sample of waiting, in the raw part of a [`crate::Sample`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitSample<'a> {
    /// The sampled thread waited itself.
    Waited(Waited<'a>),
    /// The sampled thread ended waits of others for a futex.
    Woke(Woke),
}

/// The waits of a thread since its last sample, scaled up by the sampling rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waited<'a> {
    /// Where it waited.
    pub place: WaitReason,
    /// Total nanoseconds and number of waits.
    pub wait: (u64, Fixed),
    /// Nanoseconds that it was runnable, after waking or preemption.
    pub run: u64,
    /// Nanoseconds and number of earlier waits whose stacks were not taken.
    pub lost: (u64, Fixed),
    /// The thread ran on before the sample was taken: the stack is not that of the wait.
    pub stack_changed: bool,
    /// The wait that ended with a [`WaitSample::Woke`].
    pub woken: Option<WaitId>,
    /// The time of the thread's [`crate::Chain`].
    pub chain: Option<u64>,
    /// The kernel stack of the wait, innermost first.
    pub kernel: crate::Words<'a>,
}

/// The waits that a waking thread is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Woke {
    /// The wait that it ended.
    pub woken: WaitId,
    /// Where that thread waited.
    pub place: WaitReason,
    /// Nanoseconds of all waiters since the last charge, and the number of wakeups, scaled up.
    pub wait: (u64, Fixed),
    /// The time of the waking thread's [`crate::Chain`].
    pub chain: Option<u64>,
}

/// A wait that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The thread's process, in our PID namespace.
    pub pid: i32,
    /// The thread, in our PID namespace.
    pub tid: i32,
    /// Where it waits.
    pub place: WaitReason,
    /// The wait.
    pub id: WaitId,
    /// When this was read (CLOCK_MONOTONIC, nanoseconds).
    pub now: u64,
    /// The thread pointer (`fs` base, `tpidr_el0`).
    pub thread_pointer: u64,
    /// User registers in the order of [`crate::USER_REGISTERS`].
    pub registers: Vec<u64>,
    /// Its kernel stack, innermost first.
    pub kernel: Vec<u64>,
}

/// The frames of a kernel stack of `room` bytes; `bytes` is negative where it could not be taken.
fn kernel_stack(room: &[u8], bytes: i32) -> crate::Words<'_> {
    let bytes = usize::try_from(bytes).unwrap_or(0).min(room.len());
    crate::Words::new(&room[..bytes & !7])
}

fn place(syscall: i32, state: u32, futex: (u32, u32)) -> WaitReason {
    WaitReason { syscall: u32::try_from(syscall).ok(), state, futex }
}

impl<'a> WaitSample<'a> {
    /// Parses the raw part of a sample; `None` where it is not what the programs write.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let (head, rest) = RecordHead::read_from_prefix(raw).ok()?;
        let woken = WaitId { tid: head.tid, out: head.out };
        let wait = (head.wait_ns, Fixed(head.wait_count));
        let chain = Some(head.chain).filter(|time| *time != 0);
        let place = place(head.syscall, head.state, (head.futex_op, head.futex_value));
        match head.kind {
            RECORD_WAKER => Some(Self::Woke(Woke { woken, place, wait, chain })),
            RECORD_WAIT => Some(Self::Waited(Waited {
                place,
                wait,
                run: head.run_ns,
                lost: (head.lost_ns, Fixed(head.lost_count)),
                stack_changed: head.flags & FLAG_STACK_CHANGED != 0,
                woken: (head.flags & FLAG_WOKEN != 0).then_some(woken),
                chain,
                kernel: kernel_stack(rest.get(..KERNEL_FRAMES * 8)?, head.kernel_bytes),
            })),
            _ => None,
        }
    }

    /// The time of the sampled thread's [`crate::Chain`], where one was followed.
    #[must_use]
    pub fn chain(&self) -> Option<u64> {
        match self {
            Self::Waited(waited) => waited.chain,
            Self::Woke(woke) => woke.chain,
        }
    }
}

impl Waiting {
    /// Parses the complete records of what the iterator wrote.
    pub(super) fn parse_all(bytes: &[u8]) -> Vec<Self> {
        let records = bytes.chunks_exact(size_of::<ListedWait>());
        records.filter_map(|b| ListedWait::read_from_bytes(b).ok()).map(Self::from).collect()
    }
}

impl From<ListedWait> for Waiting {
    fn from(wait: ListedWait) -> Self {
        Self {
            pid: wait.tgid.cast_signed(),
            tid: wait.tid.cast_signed(),
            place: place(wait.syscall, wait.state, (wait.futex_op, wait.futex_value)),
            id: WaitId { tid: wait.root_tid, out: wait.out },
            now: wait.now,
            thread_pointer: wait.thread_pointer,
            registers: wait.registers.to_vec(),
            kernel: kernel_stack(wait.kernel.as_bytes(), wait.kernel_bytes).iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::waits::{RECORD_WAIT as KIND_WAIT, RECORD_WAKER as KIND_WAKER};

    const HEAD: usize = size_of::<RecordHead>();

    fn record(kind: u32, flags: u32, kernel_bytes: i32, chain: u64) -> Vec<u8> {
        let mut raw = Vec::new();
        for word in
            [kind, flags, 77, (-1i32).cast_unsigned(), 2, 9, 5, kernel_bytes.cast_unsigned()]
        {
            raw.extend(word.to_le_bytes());
        }
        for word in [1000u64, 2_000, 1024, 30, 4, 0, chain, 0x7ff0, 0x4000] {
            raw.extend(word.to_le_bytes());
        }
        assert_eq!(raw.len(), HEAD);
        raw
    }

    #[test]
    fn a_wait_is_parsed() {
        let mut raw = record(KIND_WAIT, FLAG_WOKEN, 16, 1500);
        raw.extend((0..KERNEL_FRAMES as u64).flat_map(u64::to_le_bytes));
        let Some(WaitSample::Waited(w)) = WaitSample::parse(&raw) else { panic!("a wait") };
        assert_eq!(w.place, WaitReason { syscall: None, state: 2, futex: (9, 5) });
        assert_eq!((w.wait, w.run, w.lost), ((2000, Fixed(1024)), 30, (4, Fixed(0))));
        assert_eq!(w.woken, Some(WaitId { tid: 77, out: 1000 }));
        assert_eq!(w.kernel.iter().collect::<Vec<_>>(), [0, 1]);
        assert!(!w.stack_changed);
        assert_eq!(w.chain, Some(1500));
        assert_eq!(Fixed(1536).get(), 1.5);
    }

    #[test]
    fn a_kernel_stack_that_could_not_be_taken_is_empty() {
        let mut raw = record(KIND_WAIT, FLAG_STACK_CHANGED, -14, 0);
        raw.extend([0; KERNEL_FRAMES * 8]);
        let Some(WaitSample::Waited(w)) = WaitSample::parse(&raw) else { panic!("a wait") };
        assert!(w.kernel.is_empty() && w.stack_changed && w.woken.is_none() && w.chain.is_none());
    }

    #[test]
    fn a_waker_has_no_kernel_stack_and_malformed_records_are_rejected() {
        let raw = record(KIND_WAKER, 0, 0, 1500);
        let woke = WaitSample::parse(&raw).unwrap();
        assert!(matches!(woke, WaitSample::Woke(_)) && woke.chain() == Some(1500));
        assert_eq!(WaitSample::parse(&raw[..HEAD - 20]), None);
        assert_eq!(WaitSample::parse(&record(KIND_WAIT, 0, 0, 0)), None);
        assert_eq!(WaitSample::parse(&record(9, 0, 0, 0)), None);
        assert_eq!(WaitSample::parse(&[]), None);
    }
}

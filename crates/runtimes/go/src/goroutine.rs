//! Describes one goroutine: its status, stack, labels and thread.

use std::sync::Arc;

use image::{Avma, StructCopy};

use crate::{Layout, Runtime, Stack};

/// `g.atomicstatus` without its scan bit (Go's runtime/runtime2.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// `_Grunnable`: on a run queue.
    Runnable,
    /// `_Grunning`: has a thread and a processor.
    Running,
    /// `_Gsyscall`: in a system call or in C code.
    Syscall,
    /// `_Gwaiting`.
    Waiting,
    /// `_Gcopystack`: the runtime is moving its stack.
    CopyStack,
    /// `_Gpreempted`: it stopped itself for the garbage collector.
    Preempted,
    /// `_Gleaked` (1.26+): the garbage collector found that nothing can ever wake it.
    Leaked,
    /// An unknown status.
    Other(u32),
}

impl Status {
    /// `None` for a `g` without a goroutine: not started (0), ended (6) or reserved for a C thread
    /// (11).
    pub(crate) fn of(raw: u32) -> Option<Self> {
        match raw & 0xfff {
            0 | 6 | 11 => None,
            1 => Some(Self::Runnable),
            2 => Some(Self::Running),
            3 => Some(Self::Syscall),
            4 => Some(Self::Waiting),
            8 => Some(Self::CopyStack),
            9 => Some(Self::Preempted),
            10 => Some(Self::Leaked),
            other => Some(Self::Other(other)),
        }
    }

    /// The status as Go prints it (`gStatusStrings` in runtime/traceback.go).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Running => "running",
            Self::Syscall => "syscall",
            Self::Waiting => "waiting",
            Self::CopyStack => "copystack",
            Self::Preempted => "preempted",
            Self::Leaked => "leaked",
            Self::Other(_) => "???",
        }
    }
}

/// The thread of a goroutine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadRef {
    /// The address of its `m`.
    pub m: Avma,
    /// `m.procid`: the kernel's thread ID in the target's own pid namespace.
    pub tid: u64,
}

/// Why a goroutine has no stack. Expected, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StackAbsence {
    /// It is running on this thread, whose registers are required.
    Running(Option<ThreadRef>),
    /// Its thread was stopped where the goroutine's registers are not available: in a signal
    /// handler or while switching goroutines. A later attempt usually succeeds.
    NoContext,
    /// The saved stack pointer is not on its stack.
    Implausible,
    /// The stack cannot be read.
    Unreadable,
}

/// A goroutine at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goroutine {
    /// The address of the `g`.
    pub address: Avma,
    /// The goroutine id that Go prints.
    pub id: u64,
    /// The status.
    pub status: Status,
    /// Whether the garbage collector was scanning its stack (`_Gscan`).
    pub scanned: bool,
    /// The wait reason as the runtime words it. `None` unless the goroutine is waiting.
    pub wait_reason: Option<Arc<str>>,
    /// When the wait began, in nanoseconds of CLOCK_MONOTONIC. Approximate, because the garbage
    /// collector sets it; `None` until it does.
    pub waiting_since: Option<u64>,
    /// The id of the goroutine that created it. `None` before Go 1.21 and for the first one.
    pub parent: Option<u64>,
    /// The return address of the `go` statement (`gopc`).
    pub created_at: Avma,
    /// The entry of its first function (`startpc`).
    pub start: Avma,
    /// The profiler labels, sorted by key.
    pub labels: Vec<(String, String)>,
    /// Whether labels were truncated or omitted: too many, too long or not readable.
    pub labels_incomplete: bool,
    /// Whether `runtime.LockOSThread` was called.
    pub locked_to_thread: bool,
    /// The thread that runs it or that is in a system call for it.
    pub thread: Option<ThreadRef>,
    /// Its bubble of testing/synctest (1.25+).
    pub bubble: Option<u64>,
    /// Whether it belongs to the runtime (`isSystemGoroutine`). Go omits such goroutines from
    /// profiles and dumps.
    pub system: bool,
    /// The stack, or why there is none.
    pub stack: Result<Stack, StackAbsence>,
}

/// The fields that reveal whether a goroutine ran while its stack was read. `trackingSeq` increases
/// whenever the goroutine stops running. Without it, a goroutine that ran and parked again in the
/// same place looks unchanged: 1,770 of 20,600 reads under churn were wrong, none of 82,000 with
/// it.
#[derive(PartialEq, Eq)]
pub(crate) struct Fingerprint {
    words: [u64; 9],
    status: u32,
    sequence: u8,
    reason: u8,
}

impl Fingerprint {
    pub(crate) fn of(g: &StructCopy, l: &Layout) -> Self {
        let word = |offset| g.u64(offset);
        Self {
            words: [
                word(0),
                word(8),
                word(l.g_m),
                word(l.g_sched_sp),
                word(l.g_sched_pc),
                word(l.g_syscallsp),
                word(l.g_syscallpc),
                word(l.g_goid),
                word(l.g_labels),
            ],
            // The garbage collector's scan bit does not mean that the goroutine ran.
            status: g.u32(l.g_status) & 0xfff,
            sequence: g.u8(l.g_tracking_seq),
            reason: g.u8(l.g_waitreason),
        }
    }
}

impl Runtime {
    /// Whether Go omits the goroutine from profiles and dumps: it starts in the runtime and does
    /// not run user code (`isSystemGoroutine` in runtime/traceback.go).
    ///
    /// The finalizer goroutine is a user goroutine while it runs a finalizer. Go checks a variable
    /// for that; the wait reason used here is also available in stripped programs.
    pub(crate) fn is_system(&self, g: &StructCopy, start: Avma, reason: Option<&str>) -> bool {
        let Some(f) = self.table.function_at(self.bias.to_svma(start)) else { return false };
        let (id, special) = (Some(f.id()), self.table.special());
        let users = [special.runtime_main, special.corostart, special.handle_async_event];
        if f.id() != 0 && users.contains(&id) {
            return false;
        }
        if f.id() != 0 && special.finalizers == id {
            return reason.is_some_and(|r| r.starts_with("finalizer wait"));
        }
        if f.id() != 0 && special.cleanups == id {
            return crate::offsets::present(self.layout.g_running_cleanups)
                .is_none_or(|at| g.u8(at) == 0);
        }
        f.name().starts_with("runtime.")
    }
}

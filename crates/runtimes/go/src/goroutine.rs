//! One goroutine.

use std::sync::Arc;

use image::Avma;

use crate::raw::Block;
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
    /// `_Gcopystack`: its stack is being moved.
    CopyStack,
    /// `_Gpreempted`: stopped itself for the garbage collector.
    Preempted,
    /// `_Gleaked` (1.26+): the garbage collector found that nothing can ever wake it.
    Leaked,
    /// A number that is not known.
    Other(u32),
}

impl Status {
    /// `None` for a `g` that is no goroutine: not yet (0), no more (6), or kept for a thread of
    /// C (11).
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

    /// As Go prints it (`gStatusStrings` in runtime/traceback.go).
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

/// A thread that a goroutine is tied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadRef {
    /// The address of its `m`.
    pub m: Avma,
    /// `m.procid`: the kernel's thread id in the target's own pid namespace.
    pub tid: u64,
}

/// Why a goroutine has no stack: expected, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StackAbsence {
    /// It is running on this thread; its registers are needed.
    Running(Option<ThreadRef>),
    /// Its thread was stopped where the goroutine's registers are nowhere: in a signal handler,
    /// or while switching. Another try will do better.
    NoContext,
    /// The saved stack pointer is not on its stack.
    Implausible,
    /// The stack cannot be read.
    Unreadable,
}

/// A goroutine as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goroutine {
    /// The address of its `g`.
    pub address: Avma,
    /// Its number.
    pub id: u64,
    /// What it does.
    pub status: Status,
    /// The garbage collector was scanning its stack (`_Gscan`).
    pub scanned: bool,
    /// Why it waits, in the runtime's words; `None` unless it does.
    pub wait_reason: Option<Arc<str>>,
    /// Since when, in nanoseconds of CLOCK_MONOTONIC. Approximate: the garbage collector sets
    /// it. `None` until it has.
    pub waiting_since: Option<u64>,
    /// The goroutine that created it; `None` before Go 1.21, and for the first.
    pub parent: Option<u64>,
    /// The return address of the `go` statement (`gopc`).
    pub created_at: Avma,
    /// Its function (`startpc`).
    pub start: Avma,
    /// Its profiler labels, sorted by key.
    pub labels: Vec<(String, String)>,
    /// Labels were cut or left out, because they were too many, too long or not readable.
    pub labels_incomplete: bool,
    /// `runtime.LockOSThread` was called.
    pub locked_to_thread: bool,
    /// The thread that runs it, or that it is in a system call on.
    pub thread: Option<ThreadRef>,
    /// Its bubble of testing/synctest (1.25+).
    pub bubble: Option<u64>,
    /// The runtime's own (`isSystemGoroutine`): left out of Go's profiles and dumps.
    pub system: bool,
    /// Its stack.
    pub stack: Result<Stack, StackAbsence>,
}

/// What must not change while the stack is read. `trackingSeq` is raised whenever the goroutine
/// stops running: without it, a goroutine that ran and parked again in the same place looks as
/// if it had never moved (1,770 of 20,600 reads under churn were then wrong; with it none of
/// 82,000).
#[derive(PartialEq, Eq)]
pub(crate) struct Fingerprint {
    words: [u64; 9],
    status: u32,
    sequence: u8,
    reason: u8,
}

impl Fingerprint {
    pub(crate) fn of(g: &Block, l: &Layout) -> Self {
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
            // The scan bit comes and goes with the garbage collector, and moves nothing.
            status: g.u32(l.g_status) & 0xfff,
            sequence: g.u8(l.g_tracking_seq),
            reason: g.u8(l.g_waitreason),
        }
    }
}

impl Runtime {
    /// Whether Go leaves the goroutine out of profiles and dumps: it starts in the runtime, and
    /// is not one of those that run the user's code (`isSystemGoroutine`).
    ///
    /// The goroutine of finalizers is a user's while it runs one. Go looks that up in a
    /// variable; here it shows by what it waits for, which stripped programs tell as well.
    pub(crate) fn is_system(&self, g: &Block, start: Avma, reason: Option<&str>) -> bool {
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

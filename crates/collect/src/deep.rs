//! Stacks deeper than the copied window, completed from the live stack.
//!
//! Unwinding reads the stack upwards, and a stack changes at its lower end: what lies above the
//! copied window is most often still as it was when the sample was taken a few milliseconds ago.
//! Often is not always, so the live stack is used only when it proves to be the same one:
//!
//! ```text
//!   sp ├──────── copied ────────┤
//!               floor ├─ joint ─┤─────────── live ───────────┤ root
//! ```
//!
//! * the *joint*, from the last complete frame to the end of the copy, must be equal, byte by
//!   byte, in the copy and in the live stack: that frame and its callees are still there;
//! * from there the unwind information must lead without a flaw to the root of the thread, in
//!   memory that could be read throughout;
//! * the joint must still be equal after all of that was read.
//!
//! Whatever fails leaves the sample truncated and visibly so.

use std::cell::{Cell, RefCell};

use image::{Avma, Memory, Unreadable};
use target::ProcessMemory;
use unwind::{End, Frame, Unwinder};

use crate::processes::Tracked;
use crate::recorder::StackWindow;

/// Live stack is read in pieces of this size.
const PIECE: u64 = 32 << 10;
/// A stack larger than this is not completed: 8 MiB is the usual limit of a thread's stack.
const MAX_DEPTH: u64 = 16 << 20;

/// How much live stack may be read in a second.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// What completing stacks may still cost in this second.
pub(crate) struct Budget {
    second: u64,
    left: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { second: 0, left: BYTES_PER_SECOND }
    }
}

impl Budget {
    fn available(&mut self, now: u64) -> u64 {
        let second = now / 1_000_000_000;
        if second != self.second {
            *self = Self { second, left: BYTES_PER_SECOND };
        }
        self.left
    }
}

/// Goes on where the window ended the stack that `unwinder` has just unwound into `frames`.
/// Gives the end that was reached, a root; otherwise `frames` is as it was.
pub(crate) fn complete(
    unwinder: &mut Unwinder,
    tracked: &Tracked,
    window: &StackWindow<'_>,
    budget: &mut Budget,
    now: u64,
    frames: &mut Vec<Frame>,
) -> Option<End> {
    let memory = tracked.memory.as_ref()?;
    let cursor = unwinder.cursor().clone();
    let floor = cursor.registers().sp()?;
    let skip = usize::try_from(floor.0.checked_sub(window.start().0)?).ok()?;
    let joint = window.bytes().get(skip..).filter(|j| !j.is_empty())?;
    let live = LiveStack {
        memory,
        start: floor,
        bytes: RefCell::default(),
        allowance: Cell::new(budget.available(now).min(MAX_DEPTH)),
    };
    let kept = frames.len();
    let end = live.agrees(joint).then(|| unwinder.resume(&tracked.space, &cursor, &live, frames));
    budget.left = budget.left.saturating_sub(live.bytes.borrow().len() as u64);
    match end {
        Some(end) if end.is_root() && still_agrees(memory, floor, joint) => Some(end),
        _ => {
            frames.truncate(kept);
            None
        }
    }
}

fn still_agrees(memory: &ProcessMemory, at: Avma, joint: &[u8]) -> bool {
    let mut now = vec![0; joint.len()];
    memory.read(at, &mut now).is_ok() && now == joint
}

/// The live stack from `start` upwards, read once and piece by piece as it is asked for.
struct LiveStack<'a> {
    memory: &'a ProcessMemory,
    start: Avma,
    bytes: RefCell<Vec<u8>>,
    /// Bytes that may yet be read.
    allowance: Cell<u64>,
}

impl LiveStack<'_> {
    fn agrees(&self, joint: &[u8]) -> bool {
        self.fill(joint.len()) && self.bytes.borrow().starts_with(joint)
    }

    /// Makes sure that `len` bytes from the start on are there.
    fn fill(&self, len: usize) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        while bytes.len() < len {
            let piece = PIECE.min(self.allowance.get()) as usize;
            let had = bytes.len();
            bytes.resize(had + piece, 0);
            let from = self.start.wrapping_add(had as u64);
            let got = self.memory.read_upto(from, &mut bytes[had..]).unwrap_or(0);
            bytes.truncate(had + got);
            self.allowance.set(self.allowance.get().saturating_sub(got as u64));
            if got == 0 {
                return false;
            }
        }
        true
    }
}

impl Memory for LiveStack<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let at =
            usize::try_from(addr.0.wrapping_sub(self.start.0)).map_err(|_| Unreadable(addr))?;
        let end = at.checked_add(buf.len()).ok_or(Unreadable(addr))?;
        if end as u64 > MAX_DEPTH || !self.fill(end) {
            return Err(Unreadable(addr));
        }
        buf.copy_from_slice(self.bytes.borrow().get(at..end).ok_or(Unreadable(addr))?);
        Ok(())
    }
}

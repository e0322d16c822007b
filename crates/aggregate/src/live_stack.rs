//! Completes stacks that are deeper than the copied window by reading the live stack.
//!
//! Unwinding reads the stack upwards, and a stack changes at its lower end, so the part above the
//! copied window is usually still the same as when the sample was taken a few milliseconds ago.
//! As this is not certain, the live stack is only used if it proves to be unchanged:
//!
//! ```text
//!   sp ├──────── copied ────────┤
//!               floor ├─ joint ─┤─────────── live ───────────┤ root
//! ```
//!
//! Unwinding must reach the root of the thread through the live stack without an error, and one of
//! these conditions must hold:
//!
//! * The *joint*, from the last complete frame to the end of the copy, is byte for byte the same in
//!   the copy and in the live stack, both before and after the rest was read. Then that frame has
//!   not returned, and nothing above it can have changed in the meantime.
//! * The live stack as read *before* the sample and the live stack as read now, after it, have the
//!   same frames from there on.
//!
//! The first condition does not apply if the stack continues elsewhere (Go's `systemstack`). The
//! second can be wrong in one case: the stack had the same frames at both times, but different ones
//! in between. If neither holds, the stack stays truncated and is shown as such.

use std::cell::{Cell, RefCell};

use image::{AddressSpace, Avma, Memory, Unreadable};
use process::ProcessMemory;
use rustc_hash::FxHashMap;
use unwind::{Cursor, End, Frame, Unwinder};

use crate::ids::ThreadId;
use crate::processes::Tracked;
use crate::window::StackWindow;

/// The live stack is read in blocks of this many bytes.
const BLOCK: usize = 1024;
/// Maximum number of blocks per read.
const MAX_RUN: usize = 64;
/// Maximum number of bytes of live stacks read per second.
const BYTES_PER_SECOND: u64 = 128 << 20;
/// Maximum number of threads whose stacks are kept from one round to the next.
const MAX_REMEMBERED: usize = 64;
/// Maximum number of blocks kept for all threads together: 32 MiB.
const MAX_HELD: usize = 32 << 10;
/// The smallest page size, in bytes.
const PAGE: u64 = 4096;
/// Maximum number of pages read where a copy ended early.
const HOLE_PAGES: u64 = 16;
/// Size of the saved registers in a signal frame, below the stack pointer and program counter, that
/// must be unchanged; in bytes.
const SIGNAL_REGISTERS: usize = 160;

/// Snapshots of live stacks; each part of a stack is read at most once per thread and round.
#[derive(Default)]
pub(crate) struct LiveStacks {
    by_thread: FxHashMap<ThreadId, History>,
    /// The number of the current round of reading the ring buffers.
    round: u64,
    second: u64,
    read_in_second: u64,
}

#[derive(Default)]
struct History {
    round: u64,
    earlier: Option<Snapshot>,
    now: Option<Snapshot>,
}

impl LiveStacks {
    /// Starts a new round of reading the ring buffers. Its samples are older than live stacks read
    /// from now on, and newer than those read before. `now` is CLOCK_MONOTONIC in nanoseconds.
    pub fn next_round(&mut self, now: u64) {
        self.round += 1;
        let blocks = |s: &Option<Snapshot>| s.as_ref().map_or(0, |s| s.blocks.borrow().len());
        let held = self.by_thread.values().map(|h| blocks(&h.earlier) + blocks(&h.now));
        if held.sum::<usize>() > MAX_HELD {
            self.by_thread.clear();
        }
        if now / 1_000_000_000 != self.second {
            self.second = now / 1_000_000_000;
            self.read_in_second = 0;
        }
    }

    fn history(&mut self, id: ThreadId) -> &mut History {
        if self.by_thread.len() >= MAX_REMEMBERED && !self.by_thread.contains_key(&id) {
            self.by_thread.clear();
        }
        let round = self.round;
        let history = self.by_thread.entry(id).or_default();
        if history.round != round {
            history.round = round;
            if let Some(snapshot) = history.now.take() {
                history.earlier = Some(snapshot);
            }
        }
        history
    }

    /// Continues to unwind a stack that `unwinder` has just unwound into `frames` up to the end of
    /// the window; `unreadable` is the address of the first word that was missing. Returns how the
    /// root was reached, or `None` with `frames` unchanged.
    pub fn complete(
        &mut self,
        unwinder: &mut Unwinder,
        tracked: &Tracked,
        id: ThreadId,
        (window, unreadable): (&StackWindow<'_>, Avma),
        frames: &mut Vec<Frame>,
    ) -> Option<End> {
        let memory = tracked.memory.as_ref()?;
        let allowance = BYTES_PER_SECOND.saturating_sub(self.read_in_second);
        let cursor = unwinder.cursor().clone();
        let history = self.history(id);
        let now = &*history.now.get_or_insert_default();
        let live = Live { snapshot: now, memory: Some(memory), allowance: Cell::new(allowance) };
        let kept = frames.len();
        let (space, before) = (&tracked.space, frames.len());
        let end = resume(unwinder, space, &cursor, window, &live, frames);
        let same = end.is_root()
            && (!cursor.leaves_stack() && joint_agrees(window, &cursor, &live, memory)
                || history.earlier.as_ref().is_some_and(|earlier| {
                    let past = Live { snapshot: earlier, memory: None, allowance: Cell::new(0) };
                    let mut then = Vec::with_capacity(frames.len() - before);
                    let end = resume(unwinder, space, &cursor, window, &past, &mut then);
                    end.is_root() && then == frames[before..]
                }));
        // Done last, because the stack may change in the meantime.
        live.fill_hole(window, unreadable);
        self.read_in_second += allowance - live.allowance.get();
        if !same {
            frames.truncate(kept);
            return None;
        }
        Some(end)
    }
}

fn resume(
    unwinder: &mut Unwinder,
    space: &AddressSpace,
    cursor: &Cursor,
    window: &StackWindow<'_>,
    live: &Live<'_>,
    frames: &mut Vec<Frame>,
) -> End {
    unwinder.resume(space, cursor, &WindowThenLive { window, live }, frames)
}

/// Whether the joint is the same in the copy and the live stack, and still is after everything else
/// was read.
fn joint_agrees(
    window: &StackWindow<'_>,
    cursor: &Cursor,
    live: &Live<'_>,
    memory: &ProcessMemory,
) -> bool {
    let Some((at, joint)) = joint(window, cursor) else { return false };
    let mut bytes = vec![0; joint.len()];
    let same = |bytes: &[u8]| bytes == joint;
    // Compares with the snapshot, if it contains the joint, and with memory as it is now.
    (live.read(at, &mut bytes).is_err() || same(&bytes))
        && memory.read(at, &mut bytes).is_ok()
        && same(&bytes)
}

/// The joint: the bytes from the last complete frame to the end of the copy. If that frame lies on
/// another stack, which a signal interrupted, the joint is the registers that the kernel saved in
/// the signal frame along with that frame's stack pointer and program counter.
fn joint<'w>(window: &StackWindow<'w>, cursor: &Cursor) -> Option<(Avma, &'w [u8])> {
    let (sp, pc) = (cursor.registers().sp()?, cursor.registers().pc()?);
    let bytes = window.bytes();
    let skip = sp.0.wrapping_sub(window.start().0);
    if let Some(joint) = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..))
        && !joint.is_empty()
    {
        return Some((sp, joint));
    }
    let mut saved = [0; 16];
    saved[..8].copy_from_slice(&sp.0.to_le_bytes());
    saved[8..].copy_from_slice(&pc.0.to_le_bytes());
    let at = (0..bytes.len().saturating_sub(15)).step_by(8).find(|&i| bytes[i..i + 16] == saved)?;
    let begin = at.saturating_sub(SIGNAL_REGISTERS);
    Some((window.start().wrapping_add(begin as u64), &bytes[begin..at + 16]))
}

/// Parts of a thread's stack at one point in time.
#[derive(Default)]
struct Snapshot {
    blocks: RefCell<FxHashMap<u64, Box<[u8; BLOCK]>>>,
    /// Number of blocks in the last read; consecutive reads double it.
    run: Cell<usize>,
}

/// A snapshot and the memory from which it is filled; `None` for an old snapshot, which must not
/// change.
struct Live<'a> {
    snapshot: &'a Snapshot,
    memory: Option<&'a ProcessMemory>,
    /// Number of bytes that may still be read in this second.
    allowance: Cell<u64>,
}

impl Live<'_> {
    /// Reads a block. If consecutive blocks are requested, also reads the following ones in
    /// advance: small frames need the whole stack, large frames only a word here and there.
    fn fetch(&self, block: u64) -> Option<()> {
        let memory = self.memory?;
        let mut blocks = self.snapshot.blocks.borrow_mut();
        let in_a_row = block.checked_sub(1).is_some_and(|before| blocks.contains_key(&before));
        let run = if in_a_row { (self.snapshot.run.get() * 2).clamp(1, MAX_RUN) } else { 1 };
        self.snapshot.run.set(run);
        let cost = (run * BLOCK) as u64;
        self.allowance.set(self.allowance.get().checked_sub(cost)?);
        let mut bytes = vec![0; run * BLOCK];
        let got = memory.read_upto(Avma(block * BLOCK as u64), &mut bytes).ok()?;
        let (whole, _) = bytes[..got].as_chunks::<BLOCK>();
        for (n, bytes) in whole.iter().enumerate() {
            blocks.entry(block + n as u64).or_insert_with(|| Box::new(*bytes));
        }
        (!whole.is_empty()).then_some(())
    }

    /// Makes pages readable that cut a copy short. The kernel's copy of a stack ends at a page that
    /// was never touched, as in a frame whose function does not use all of a large array. Reading
    /// such a page maps the kernel's zero page there, which costs the target no memory, and the
    /// next copy continues beyond it.
    fn fill_hole(&self, window: &StackWindow<'_>, unreadable: Avma) {
        let end = window.start().wrapping_add(window.bytes().len() as u64).0;
        let pages = unreadable.0.saturating_sub(end) / PAGE;
        // Otherwise the window itself ends there, or the stack continues elsewhere.
        if end.is_multiple_of(PAGE) && pages < HOLE_PAGES {
            for page in 0..pages {
                let _ = self.with_block(end + page * PAGE, |_| ());
            }
        }
    }

    /// Calls `f` with the bytes from an address to the end of its block.
    fn with_block<T>(&self, addr: u64, f: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let (block, at) = (addr / BLOCK as u64, (addr % BLOCK as u64) as usize);
        if !self.snapshot.blocks.borrow().contains_key(&block) {
            self.fetch(block)?;
        }
        self.snapshot.blocks.borrow().get(&block).map(|bytes| f(&bytes[at..]))
    }
}

impl Memory for Live<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut done = 0;
        while done < buf.len() {
            let rest = &mut buf[done..];
            let from = addr.checked_add(done as u64).ok_or(Unreadable(addr))?;
            let copied = self.with_block(from.0, |bytes| {
                let n = bytes.len().min(rest.len());
                rest[..n].copy_from_slice(&bytes[..n]);
                n
            });
            done += copied.ok_or(Unreadable(addr))?;
        }
        Ok(())
    }
}

/// The copied window, and the live stack for everything beyond it.
struct WindowThenLive<'a, 'w> {
    window: &'a StackWindow<'w>,
    live: &'a Live<'a>,
}

impl Memory for WindowThenLive<'_, '_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.window.read(addr, buf).or_else(|_| self.live.read(addr, buf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_a_row_are_read_in_advance_within_the_allowance() {
        let own = process::Process::open(std::process::id().cast_signed()).expect("we live");
        let memory = own.memory().expect("own memory");
        let data: Vec<u8> = (0..32 * BLOCK).map(|i| (i / 7) as u8).collect();
        let start = data.as_ptr() as u64;
        let first = start.next_multiple_of(BLOCK as u64);
        let skipped = (first - start) as usize;
        let snapshot = Snapshot::default();
        let allowance = Cell::new(10 * BLOCK as u64);
        let live = Live { snapshot: &snapshot, memory: Some(&memory), allowance };
        let read = |live: &Live<'_>, block: usize| {
            let mut bytes = [0; 8];
            let at = Avma(first + (block * BLOCK) as u64 + 1);
            let expected = &data[skipped + block * BLOCK + 1..][..8];
            live.read(at, &mut bytes).map(|()| assert_eq!(bytes, expected)).is_ok()
        };
        // Reads 1, 2 (of which the second is for the next), and 4 blocks.
        for (block, left) in [(0, 9), (1, 7), (2, 7), (3, 3)] {
            assert!(read(&live, block), "block {block}");
            assert_eq!(live.allowance.get(), left * BLOCK as u64, "block {block}");
        }
        assert!(!read(&live, 7), "8 blocks exceed the allowance");
        assert!(read(&live, 20));
        assert_eq!(live.allowance.get(), 2 * BLOCK as u64);
        let old = Live { snapshot: &snapshot, memory: None, allowance: Cell::new(u64::MAX) };
        assert_eq!([0, 6, 7, 20].map(|block| read(&old, block)), [true, true, false, true]);
    }

    #[test]
    fn the_allowance_is_renewed_each_second() {
        let mut stacks = LiveStacks { read_in_second: 5, ..LiveStacks::default() };
        stacks.next_round(999_999_999);
        assert_eq!((stacks.round, stacks.read_in_second), (1, 5));
        stacks.next_round(1_000_000_000);
        assert_eq!((stacks.round, stacks.read_in_second), (2, 0));
    }

    #[test]
    fn the_snapshot_of_the_round_before_is_kept() {
        let mut stacks = LiveStacks::default();
        let id = ThreadId { pid: 1, tid: 1 };
        stacks.next_round(0);
        stacks.history(id).now = Some(Snapshot::default());
        assert!(stacks.history(id).now.is_some() && stacks.history(id).earlier.is_none());
        stacks.next_round(0);
        assert!(stacks.history(id).now.is_none() && stacks.history(id).earlier.is_some());
        for tid in 2..=MAX_REMEMBERED as i32 {
            stacks.history(ThreadId { pid: 1, tid });
        }
        assert!(stacks.history(id).earlier.is_some());
        stacks.history(ThreadId { pid: 2, tid: 1 });
        assert_eq!(stacks.by_thread.len(), 1);
    }
}

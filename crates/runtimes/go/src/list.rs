//! Lists all goroutines with their stacks while the target keeps running.

use std::collections::HashMap;
use std::sync::Arc;

use image::{Avma, Memory, ReadRequest, StructCopy};

use crate::disjoint::{Disjoint, are_disjoint};
use crate::goroutine::{Fingerprint, Goroutine, StackAbsence, Status, ThreadRef};
use crate::labels::{self, Budget};
use crate::offsets::present;
use crate::raw;
use crate::unwind::{MAX_FRAMES, StackReader, Start};
use crate::{ReadError, Runtime, Stack, StackEnd, Variable};

/// Bounds the list of goroutines. A `g` is never freed, so this is the most that ever coexisted.
const MAX_GOROUTINES: u64 = 50_000_000;
/// In bytes; longer than any entry of `waitReasonStrings`.
const MAX_REASON: usize = 96;
/// Attempts to read a goroutine before it is reported as unsettled. One that lives for microseconds
/// may change each time.
const ATTEMPTS: usize = 16;

/// Registers of a stopped thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadContext {
    /// The instruction pointer.
    pub pc: Avma,
    /// The stack pointer.
    pub sp: Avma,
    /// The link register, on arm64.
    pub link: Option<Avma>,
}

/// Maximum number of frames of all stacks together, so that a target cannot exhaust our memory:
/// they take 1.5 GB. A million goroutines of typical depth have half as many.
const MAX_TOTAL_FRAMES: usize = 32 << 20;
/// Maximum number of frames of stacks that share memory with the stack of another goroutine. A stack
/// that is freed while the goroutines are read may be read again as that of another one, but only
/// in a hostile program do many goroutines share one.
const MAX_SHARED_FRAMES: usize = 1 << 20;
/// Addresses of goroutines that are read together.
const CHUNK: usize = 128 << 10;

/// All goroutines of a program.
#[derive(Debug, Clone, Default)]
pub struct GoroutineList {
    /// The goroutines, including those of the runtime ([`Goroutine::system`]).
    pub goroutines: Vec<Goroutine>,
    /// The number of `g`s without a goroutine.
    pub dead: usize,
    /// The address of each `g` that changed during every attempt. Reading it again may succeed.
    pub unsettled: Vec<Avma>,
    /// The number of `g`s that cannot be read.
    pub unreadable: usize,
}

/// The result of one attempt to read a goroutine.
enum Attempt {
    Got(Box<Goroutine>),
    Dead,
    Changed,
}

/// A goroutine's state before its stack is unwound.
struct Unwindable {
    status: Status,
    thread: Option<ThreadRef>,
    start: Result<Start, StackAbsence>,
    labels: (Vec<(String, String)>, bool),
    bubble: Option<u64>,
}

impl Unwindable {
    /// The part of the stack to copy with one read.
    fn window(&self, g: &StructCopy) -> Option<ReadRequest> {
        let start = self.start.as_ref().ok()?;
        let size = g.u64(8).checked_sub(start.sp.0)?.min(WINDOW);
        Some(ReadRequest::new(start.sp, usize::try_from(size).ok()?))
    }
}

/// The frames that a goroutine's stack may have.
struct Share {
    low: u64,
    high: u64,
    /// Whether no stack that was unwound before shares its memory.
    own: bool,
    max: usize,
}

/// Goroutines that are read together: few enough that they rarely change in between.
const BATCH: usize = 64;
/// Bytes of each stack that are copied first. Most parked goroutines use less.
const WINDOW: u64 = 2048;

/// Reads goroutines of one program, and caches the texts of wait reasons between them.
pub struct GoroutineReader<'a> {
    runtime: &'a Runtime,
    memory: &'a dyn Memory,
    reasons: HashMap<u8, Option<Arc<str>>>,
    arguments: bool,
    frames_left: usize,
    /// The stacks that were unwound, and how many frames others in the same memory may have.
    stacks: Disjoint,
    shared_frames_left: usize,
    labels_left: Budget,
}

impl Runtime {
    /// Creates a reader of goroutines. With `arguments` it also reads the arguments of each call,
    /// as Go's `debug=2` shows them.
    #[must_use]
    pub fn goroutine_reader<'a>(
        &'a self,
        memory: &'a dyn Memory,
        arguments: bool,
    ) -> GoroutineReader<'a> {
        GoroutineReader {
            runtime: self,
            memory,
            reasons: HashMap::new(),
            arguments,
            frames_left: MAX_TOTAL_FRAMES,
            stacks: Disjoint::default(),
            shared_frames_left: MAX_SHARED_FRAMES,
            labels_left: Budget::of_all(),
        }
    }

    /// The address of the `g` that a thread is running, for CPU samples. `m` is the address of the
    /// thread's `m` (see [`Runtime::threads`]). `None` if it runs none or cannot be read.
    #[must_use]
    pub fn current_goroutine(&self, memory: &dyn Memory, m: Avma) -> Option<Avma> {
        let g = memory.read_u64(m.wrapping_add(self.layout.m_curg)).ok()?;
        (g != 0).then_some(Avma(g))
    }

    /// The current profiler labels of a goroutine, sorted by key, and whether some were truncated
    /// or unreadable. Changes during the read are not detected: a goroutine replaces its labels as
    /// a whole.
    #[must_use]
    pub fn goroutine_labels(&self, memory: &dyn Memory, g: Avma) -> (Vec<(String, String)>, bool) {
        match memory.read_u64(g.wrapping_add(self.layout.g_labels)) {
            Ok(pointer) => labels::read(memory, &self.layout, pointer),
            Err(_) => (Vec::new(), true),
        }
    }

    /// The address of every `g` that was ever created.
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found, unreadable or implausibly long.
    pub fn goroutine_addresses(&self, memory: &dyn Memory) -> Result<Vec<Avma>, ReadError> {
        let (array, length) = self.all_goroutines(memory)?;
        let length = Some(length).filter(|l| *l <= MAX_GOROUTINES);
        let length = length.ok_or(ReadError::Implausible("the number of goroutines"))?;
        if length > 0 {
            memory.read_u64(Avma(array).wrapping_add((length - 1) * 8))?;
        }
        let (mut all, mut checked) = (Vec::new(), CHUNK);
        let (mut left, mut at) = (usize::try_from(length).unwrap_or(0), Avma(array));
        while left > 0 {
            let part = left.min(CHUNK);
            let words = raw::words(memory, at, part)?;
            all.extend(words.into_iter().filter(|g| *g != 0).map(Avma));
            (left, at) = (left - part, at.wrapping_add(8 * part as u64));
            // Each `g` is listed once, so the list is short compared with what the target uses.
            if left == 0 || all.len() >= 2 * checked {
                checked = all.len();
                if !are_disjoint(&all, self.layout.g_size()) {
                    return Err(ReadError::Implausible("goroutines share memory"));
                }
            }
        }
        Ok(all)
    }

    fn all_goroutines(&self, memory: &dyn Memory) -> Result<(u64, u64), ReadError> {
        if let (Ok(pointer), Ok(length)) =
            (self.address(Variable::Allgptr), self.address(Variable::Allglen))
        {
            // The runtime writes the pointer before the length. Read in the opposite order, the
            // array is at least that long (allgadd in runtime/proc.go).
            let length = memory.read_u64(length)?;
            return Ok((memory.read_u64(pointer)?, length));
        }
        // A lock that we cannot take guards the slice {array, length, capacity}: accept it once two
        // reads agree.
        let slice = self.address(Variable::Allgs)?;
        for _ in 0..ATTEMPTS {
            let (a, b) = (raw::words(memory, slice, 3)?, raw::words(memory, slice, 3)?);
            if a == b && a[1] <= a[2] {
                return Ok((a[0], a[1]));
            }
        }
        Err(ReadError::Unsettled("the list of goroutines"))
    }
}

impl GoroutineReader<'_> {
    /// Reads all goroutines. Running ones have no stack: see [`GoroutineReader::running`].
    ///
    /// # Errors
    /// [`ReadError`] if the list cannot be read. A single goroutine that cannot be read is counted
    /// in [`GoroutineList::unreadable`].
    pub fn list(&mut self) -> Result<GoroutineList, ReadError> {
        let mut list = GoroutineList::default();
        (self.frames_left, self.shared_frames_left) = (MAX_TOTAL_FRAMES, MAX_SHARED_FRAMES);
        (self.stacks, self.labels_left) = (Disjoint::default(), Budget::of_all());
        for batch in self.runtime.goroutine_addresses(self.memory)?.chunks(BATCH) {
            for (g, attempt) in batch.iter().zip(self.batch(batch)) {
                let read = match attempt {
                    Some(Attempt::Got(goroutine)) => Ok(Some(*goroutine)),
                    Some(Attempt::Dead) => Ok(None),
                    // It changed, or its stack is deeper than the copied part.
                    Some(Attempt::Changed) | None => self.read(*g),
                };
                match read {
                    Ok(Some(goroutine)) => {
                        list.goroutines.push(goroutine);
                    }
                    Ok(None) => list.dead += 1,
                    Err(ReadError::Unsettled(_)) => list.unsettled.push(*g),
                    Err(_) => list.unreadable += 1,
                }
            }
        }
        Ok(list)
    }

    /// Reads several goroutines with three system calls: each `g`, the used part of each stack and
    /// each `g` again. `None` for a goroutine that needs [`Self::read`].
    fn batch(&mut self, all: &[Avma]) -> Vec<Option<Attempt>> {
        let layout = &self.runtime.layout;
        let parts = |size| all.iter().map(|g| ReadRequest::new(*g, size)).collect::<Vec<_>>();
        let mut first = parts(layout.g_size());
        self.memory.read_many(&mut first);
        let first: Vec<Option<StructCopy>> =
            first.into_iter().map(|p| p.readable.then(|| StructCopy::from(p.bytes))).collect();
        let mut states = Vec::with_capacity(all.len());
        let mut stacks = Vec::new();
        for g in &first {
            let state = g.as_ref().map(|g| self.state(g));
            let window = match (g, &state) {
                (Some(g), Some(Some(state))) => state.window(g),
                _ => None,
            };
            states.push((state, window.as_ref().map(|_| stacks.len())));
            stacks.extend(window);
        }
        self.memory.read_many(&mut stacks);
        let mut again = parts(layout.g_size());
        self.memory.read_many(&mut again);
        let mut attempts = Vec::with_capacity(all.len());
        let rows = all.iter().zip(&first).zip(states).zip(again);
        for (((at, g), (state, window)), again) in rows {
            let window =
                window.map(|i| std::mem::replace(&mut stacks[i], ReadRequest::new(Avma(0), 0)));
            attempts.push(match (g, state) {
                (Some(_), Some(None)) => Some(Attempt::Dead),
                (Some(g), Some(Some(state))) if again.readable => {
                    self.unwind_copied(*at, g, state, window, &StructCopy::from(again.bytes))
                }
                _ => None,
            });
        }
        attempts
    }

    /// Reads what a `g` refers to apart from its stack. `None` for a `g` without a goroutine.
    fn state(&mut self, g: &StructCopy) -> Option<Unwindable> {
        let layout = &self.runtime.layout;
        let status = Status::of(g.u32(layout.g_status))?;
        let thread = self.thread(g.u64(layout.g_m));
        let start = self.start(g, status, thread, None);
        let labels = self.labels(g);
        Some(Unwindable { status, thread, start, labels, bubble: self.bubble(g) })
    }

    /// Unwinds the copied part of the stack, unless the goroutine has changed. `None` if the part
    /// was too short.
    fn unwind_copied(
        &mut self,
        at: Avma,
        g: &StructCopy,
        state: Unwindable,
        window: Option<ReadRequest>,
        again: &StructCopy,
    ) -> Option<Attempt> {
        let layout = &self.runtime.layout;
        if Fingerprint::of(g, layout) != Fingerprint::of(again, layout) {
            return Some(Attempt::Changed);
        }
        let stack = match (state.start.clone(), window) {
            (Err(absence), _) => Err(absence),
            (Ok(start), Some(part)) if part.readable => {
                let (low, high) = (Avma(g.u64(0)), Avma(g.u64(8)));
                let mut words = StackReader::of_copy(self.memory, low, high, part.at, part.bytes);
                let share = self.share(g);
                let stack = self.runtime.unwind(&mut words, start, self.arguments, share.max);
                if words.left_copy {
                    return None;
                }
                self.use_up(share, &stack);
                Ok(stack)
            }
            _ => return None,
        };
        Some(Attempt::Got(Box::new(self.goroutine(at, g, state, stack))))
    }

    /// Reads one goroutine: the `g`, its stack and the `g` again, until nothing changed in between.
    /// `None` if the `g` has no goroutine at the moment.
    ///
    /// # Errors
    /// [`ReadError`] if it cannot be read or changed during every attempt.
    pub fn read(&mut self, g: Avma) -> Result<Option<Goroutine>, ReadError> {
        for _ in 0..ATTEMPTS {
            match self.attempt(g, None)? {
                Attempt::Got(goroutine) => return Ok(Some(*goroutine)),
                Attempt::Dead => return Ok(None),
                Attempt::Changed => {}
            }
        }
        Err(ReadError::Unsettled("a goroutine"))
    }

    /// Reads a goroutine whose thread is stopped, given that thread's id and registers. `None` if
    /// the goroutine has ended. A goroutine that has left the thread is read as by
    /// [`GoroutineReader::read`].
    ///
    /// # Errors
    /// As [`GoroutineReader::read`].
    pub fn running(
        &mut self,
        g: Avma,
        tid: u64,
        context: ThreadContext,
    ) -> Result<Option<Goroutine>, ReadError> {
        match self.attempt(g, Some((tid, context)))? {
            Attempt::Got(goroutine) => Ok(Some(*goroutine)),
            Attempt::Dead => Ok(None),
            Attempt::Changed => self.read(g),
        }
    }

    fn attempt(
        &mut self,
        at: Avma,
        stopped: Option<(u64, ThreadContext)>,
    ) -> Result<Attempt, ReadError> {
        let layout = &self.runtime.layout;
        let g = StructCopy::read(self.memory, at, layout.g_size())?;
        let Some(status) = Status::of(g.u32(layout.g_status)) else { return Ok(Attempt::Dead) };
        let thread = self.thread(g.u64(layout.g_m));
        let context = stopped.filter(|(tid, _)| thread.is_some_and(|t| t.tid == *tid));
        let start = self.start(&g, status, thread, context.map(|(_, c)| c));
        let stack = start.clone().and_then(|start| self.stack(&g, start));
        let labels = self.labels(&g);
        let state = Unwindable { status, thread, start, labels, bubble: self.bubble(&g) };

        let again = StructCopy::read(self.memory, at, layout.g_size())?;
        if Fingerprint::of(&g, layout) != Fingerprint::of(&again, layout) {
            return Ok(Attempt::Changed);
        }
        Ok(Attempt::Got(Box::new(self.goroutine(at, &g, state, stack))))
    }

    fn goroutine(
        &mut self,
        at: Avma,
        g: &StructCopy,
        state: Unwindable,
        stack: Result<Stack, StackAbsence>,
    ) -> Goroutine {
        let Unwindable { status, thread, labels: (labels, labels_incomplete), bubble, .. } = state;
        let reason = matches!(status, Status::Waiting | Status::Leaked)
            .then(|| self.reason(g.u8(self.runtime.layout.g_waitreason)))
            .flatten();
        let layout = &self.runtime.layout;
        let start = Avma(g.u64(layout.g_startpc));
        Goroutine {
            address: at,
            id: g.u64(layout.g_goid),
            status,
            scanned: g.u32(layout.g_status) & 0x1000 != 0,
            waiting_since: Some(g.u64(layout.g_waitsince)).filter(|t| *t != 0),
            parent: present(layout.g_parent).map(|p| g.u64(p)).filter(|p| *p != 0),
            created_at: Avma(g.u64(layout.g_gopc)),
            start,
            labels,
            labels_incomplete,
            locked_to_thread: g.u64(layout.g_lockedm) != 0,
            thread,
            bubble,
            system: self.runtime.is_system(g, start, reason.as_deref()),
            wait_reason: reason,
            stack,
        }
    }

    fn thread(&self, m: u64) -> Option<ThreadRef> {
        let m = Avma(Some(m).filter(|m| *m != 0)?);
        let tid = self.memory.read_u64(m.wrapping_add(self.runtime.layout.m_procid)).ok()?;
        Some(ThreadRef { m, tid })
    }

    fn bubble(&self, g: &StructCopy) -> Option<u64> {
        let layout = &self.runtime.layout;
        let bubble = g.u64(present(layout.g_bubble)?);
        let id = present(layout.bubble_id)?;
        self.memory.read_u64(Avma(Some(bubble).filter(|b| *b != 0)?).wrapping_add(id)).ok()
    }

    /// Finds the registers to start unwinding from: see `unwinder.initAt`, and for a running
    /// goroutine `traceback1` and the comments on `g.sched`, in Go's runtime.
    fn start(
        &self,
        g: &StructCopy,
        status: Status,
        thread: Option<ThreadRef>,
        context: Option<ThreadContext>,
    ) -> Result<Start, StackAbsence> {
        let layout = &self.runtime.layout;
        let (low, high) = (g.u64(0), g.u64(8));
        let on_stack = |sp: Avma| sp.0 > low && sp.0 < high;
        let saved = |pc, sp, syscall| Start {
            pc: Avma(pc),
            sp: Avma(sp),
            interrupted: false,
            syscall,
            link: None,
        };
        let sched = saved(g.u64(layout.g_sched_pc), g.u64(layout.g_sched_sp), false);
        let start = if g.u64(layout.g_syscallsp) != 0 {
            saved(g.u64(layout.g_syscallpc), g.u64(layout.g_syscallsp), true)
        } else if status != Status::Running {
            sched
        } else {
            let context = context.ok_or(StackAbsence::Running(thread))?;
            if on_stack(context.sp) {
                let ThreadContext { pc, sp, link } = context;
                Start { pc, sp, interrupted: true, syscall: false, link }
            } else {
                self.off_stack(thread, context, sched, &on_stack)?
            }
        };
        if on_stack(start.sp) { Ok(start) } else { Err(StackAbsence::Implausible) }
    }

    /// Finds the registers of a goroutine whose thread is on another stack. In the vdso the `m`
    /// records the caller; on the thread's system stack `g.sched` has the saved state; in a signal
    /// handler they are lost.
    fn off_stack(
        &self,
        thread: Option<ThreadRef>,
        context: ThreadContext,
        sched: Start,
        on_stack: &dyn Fn(Avma) -> bool,
    ) -> Result<Start, StackAbsence> {
        let m = thread.ok_or(StackAbsence::NoContext)?.m;
        let word = |offset| self.memory.read_u64(m.wrapping_add(offset));
        let layout = &self.runtime.layout;
        if let (Ok(sp), Ok(pc)) = (word(layout.m_vdso_sp), word(layout.m_vdso_pc))
            && on_stack(Avma(sp))
        {
            return Ok(Start { pc: Avma(pc), sp: Avma(sp), ..sched });
        }
        if let Ok(gsignal) = word(layout.m_gsignal)
            && let Ok(bounds) = raw::words(self.memory, Avma(gsignal), 2)
            && (bounds[0]..bounds[1]).contains(&context.sp.0)
        {
            return Err(StackAbsence::NoContext);
        }
        if on_stack(sched.sp) { Ok(sched) } else { Err(StackAbsence::NoContext) }
    }

    fn labels(&mut self, g: &StructCopy) -> (Vec<(String, String)>, bool) {
        let layout = &self.runtime.layout;
        let pointer = g.u64(layout.g_labels);
        labels::read_within(self.memory, layout, pointer, &mut self.labels_left)
    }

    /// How many frames the stack of `g` may have.
    fn share(&self, g: &StructCopy) -> Share {
        let (low, high) = (g.u64(0), g.u64(8));
        let own = self.stacks.is_free(low, high);
        let left = if own { self.frames_left } else { self.shared_frames_left };
        Share { low, high, own, max: left.min(MAX_FRAMES) }
    }

    fn use_up(&mut self, share: Share, stack: &Stack) {
        let left = if share.own { &mut self.frames_left } else { &mut self.shared_frames_left };
        *left = left.saturating_sub(stack.frames.len());
        self.stacks.add(share.low, share.high);
    }

    fn stack(&mut self, g: &StructCopy, start: Start) -> Result<Stack, StackAbsence> {
        let mut words = StackReader::new(self.memory, Avma(g.u64(0)), Avma(g.u64(8)));
        let share = self.share(g);
        let stack = self.runtime.unwind(&mut words, start, self.arguments, share.max);
        self.use_up(share, &stack);
        if stack.end == StackEnd::Unreadable && stack.frames.len() <= 1 {
            return Err(StackAbsence::Unreadable);
        }
        Ok(stack)
    }

    /// The text of a wait reason, from the runtime's own table, because almost every Go version
    /// renumbers them. Reason 0 is empty and means none.
    fn reason(&mut self, number: u8) -> Option<Arc<str>> {
        if let Some(known) = self.reasons.get(&number) {
            return known.clone();
        }
        let read = || {
            let table = self.runtime.address(Variable::WaitReasonStrings).ok()?;
            let entry = raw::words(self.memory, table.wrapping_add(16 * u64::from(number)), 2);
            let [pointer, length] = entry.ok()?[..] else { return None };
            let (text, cut) = raw::string(self.memory, pointer, length, MAX_REASON).ok()?;
            let plain = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            (!cut && !text.is_empty() && plain).then(|| Arc::from(text))
        };
        let reason: Option<Arc<str>> = read();
        self.reasons.insert(number, reason.clone());
        reason
    }
}

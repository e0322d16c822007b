//! All goroutines, read without stopping anything.

use std::collections::HashMap;
use std::sync::Arc;

use image::{Avma, Memory, Part};

use crate::goroutine::{Fingerprint, Goroutine, StackAbsence, Status, ThreadRef};
use crate::offsets::present;
use crate::raw::{self, Block};
use crate::unwind::{MAX_FRAMES, StackWords, Start};
use crate::{ReadError, Runtime, Stack, StackEnd, Variable, labels};

/// A `g` is never freed, so this bounds how many a program ever had at once.
const MAX_GOROUTINES: u64 = 50_000_000;
/// `waitReasonStrings` has 40 entries in 1.27; the reason is one byte.
const MAX_REASON: usize = 96;
/// How often a goroutine is read before it is called unsettled: one that comes and goes in
/// microseconds may change each time.
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

/// The frames of all stacks together, so that a target cannot fill our memory: 1.5 GB. A million
/// goroutines of common depth have half of that.
const MAX_FRAMES_IN_ALL: usize = 32 << 20;

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct GoroutineList {
    /// The goroutines, system ones included.
    pub goroutines: Vec<Goroutine>,
    /// Each `g` without a goroutine.
    pub dead: usize,
    /// Each `g` that changed at every attempt: read them again.
    pub unsettled: Vec<Avma>,
    /// Each `g` that cannot be read.
    pub unreadable: usize,
}

/// What became of an attempt to read one.
enum Attempt {
    Got(Box<Goroutine>),
    Dead,
    Changed,
}

/// What is known of a goroutine before its stack is walked.
struct Begin {
    status: Status,
    thread: Option<ThreadRef>,
    start: Result<Start, StackAbsence>,
    labels: (Vec<(String, String)>, bool),
    bubble: Option<u64>,
}

impl Begin {
    /// The part of its stack that is copied at once.
    fn window(&self, g: &Block) -> Option<Part> {
        let start = self.start.as_ref().ok()?;
        let size = g.u64(8).checked_sub(start.sp.0)?.min(WINDOW);
        Some(Part::new(start.sp, usize::try_from(size).ok()?))
    }
}

/// How many are read at once: few enough that hardly one changes meanwhile.
const BATCH: usize = 64;
/// Most parked goroutines use less of their stack.
const WINDOW: u64 = 2048;

/// Reads goroutines, keeping what does not change between them.
pub struct GoroutineReader<'a> {
    runtime: &'a Runtime,
    memory: &'a dyn Memory,
    reasons: HashMap<u8, Option<Arc<str>>>,
    arguments: bool,
    frames_left: usize,
}

impl Runtime {
    /// A reader of goroutines. `arguments`: also those of each call, for dumps in the form of
    /// Go's `debug=2`.
    #[must_use]
    pub fn goroutine_reader<'a>(
        &'a self,
        memory: &'a dyn Memory,
        arguments: bool,
    ) -> GoroutineReader<'a> {
        let (reasons, frames_left) = (HashMap::new(), MAX_FRAMES_IN_ALL);
        GoroutineReader { runtime: self, memory, reasons, arguments, frames_left }
    }

    /// The goroutine that a thread runs now, by the address of its `m` (see
    /// [`Runtime::threads`]); `None` for none, or where that cannot be read. For CPU samples,
    /// which know their thread.
    #[must_use]
    pub fn current_goroutine(&self, memory: &dyn Memory, m: Avma) -> Option<Avma> {
        let g = memory.read_u64(m.wrapping_add(self.layout.m_curg)).ok()?;
        (g != 0).then_some(Avma(g))
    }

    /// The profiler labels of a goroutine now, and whether some were cut or unreadable. Not
    /// validated against change: a goroutine sets its own labels, whole sets at a time.
    #[must_use]
    pub fn goroutine_labels(&self, memory: &dyn Memory, g: Avma) -> (Vec<(String, String)>, bool) {
        match memory.read_u64(g.wrapping_add(self.layout.g_labels)) {
            Ok(pointer) => labels::read(memory, &self.layout, pointer),
            Err(_) => (Vec::new(), true),
        }
    }

    /// The address of every `g` that ever was.
    ///
    /// # Errors
    /// [`ReadError`] when the list is unknown, unreadable or absurdly long.
    pub fn goroutine_addresses(&self, memory: &dyn Memory) -> Result<Vec<Avma>, ReadError> {
        let (array, length) = self.all_goroutines(memory)?;
        let length = Some(length).filter(|l| *l <= MAX_GOROUTINES);
        let length = length.ok_or(ReadError::Implausible("the number of goroutines"))?;
        if length > 0 {
            memory.read_u64(Avma(array).wrapping_add((length - 1) * 8))?;
        }
        let count = usize::try_from(length).unwrap_or(0);
        let all = raw::words(memory, Avma(array), count)?;
        Ok(all.into_iter().filter(|g| *g != 0).map(Avma).collect())
    }

    fn all_goroutines(&self, memory: &dyn Memory) -> Result<(u64, u64), ReadError> {
        if let (Ok(pointer), Ok(length)) =
            (self.address(Variable::Allgptr), self.address(Variable::Allglen))
        {
            // The runtime writes the pointer before the length: read in the other order, the
            // array is at least that long (runtime/proc.go, allgadd).
            let length = memory.read_u64(length)?;
            return Ok((memory.read_u64(pointer)?, length));
        }
        // The slice {array, length, capacity} is guarded by a lock, so it must hold still.
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
    /// Reads all goroutines. Those that run have no stack yet: see [`GoroutineReader::running`].
    ///
    /// # Errors
    /// [`ReadError`] when there is no list; a single goroutine that cannot be read is counted.
    pub fn list(&mut self) -> Result<GoroutineList, ReadError> {
        let mut list = GoroutineList::default();
        self.frames_left = MAX_FRAMES_IN_ALL;
        for batch in self.runtime.goroutine_addresses(self.memory)?.chunks(BATCH) {
            for (g, attempt) in batch.iter().zip(self.batch(batch)) {
                let read = match attempt {
                    Some(Attempt::Got(goroutine)) => Ok(Some(*goroutine)),
                    Some(Attempt::Dead) => Ok(None),
                    // It has changed meanwhile, or its stack is deep: by itself, then.
                    Some(Attempt::Changed) | None => self.read(*g),
                };
                match read {
                    Ok(Some(goroutine)) => {
                        let frames = goroutine.stack.as_ref().map_or(0, |s| s.frames.len());
                        self.frames_left -= frames.min(self.frames_left);
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

    /// Reads several goroutines with three system calls: each `g`, the used part of each stack,
    /// and each `g` again. `None` for one that cannot be read in this way.
    fn batch(&mut self, all: &[Avma]) -> Vec<Option<Attempt>> {
        let layout = &self.runtime.layout;
        let parts = |size| all.iter().map(|g| Part::new(*g, size)).collect::<Vec<_>>();
        let mut first = parts(layout.g_size());
        self.memory.read_many(&mut first);
        let first: Vec<Option<Block>> =
            first.into_iter().map(|p| p.readable.then(|| Block::of(p.bytes))).collect();
        let mut begun = Vec::with_capacity(all.len());
        let mut stacks = Vec::new();
        for g in &first {
            let begin = g.as_ref().map(|g| self.begin(g));
            let window = match (g, &begin) {
                (Some(g), Some(Some(b))) => b.window(g),
                _ => None,
            };
            begun.push((begin, window.as_ref().map(|_| stacks.len())));
            stacks.extend(window);
        }
        self.memory.read_many(&mut stacks);
        let mut again = parts(layout.g_size());
        self.memory.read_many(&mut again);
        let mut attempts = Vec::with_capacity(all.len());
        let rows = all.iter().zip(&first).zip(begun).zip(again);
        for (((at, g), (begin, window)), again) in rows {
            let window = window.map(|i| std::mem::replace(&mut stacks[i], Part::new(Avma(0), 0)));
            attempts.push(match (g, begin) {
                (Some(_), Some(None)) => Some(Attempt::Dead),
                (Some(g), Some(Some(begin))) if again.readable => {
                    self.conclude(*at, g, begin, window, &Block::of(again.bytes))
                }
                _ => None,
            });
        }
        attempts
    }

    /// What is read of a goroutine beside its `g` and its stack; `None` where there is none.
    fn begin(&mut self, g: &Block) -> Option<Begin> {
        let layout = &self.runtime.layout;
        let status = Status::of(g.u32(layout.g_status))?;
        let thread = self.thread(g.u64(layout.g_m));
        let start = self.start(g, status, thread, None);
        let labels = labels::read(self.memory, layout, g.u64(layout.g_labels));
        Some(Begin { status, thread, start, labels, bubble: self.bubble(g) })
    }

    /// Walks the copied stack, if nothing has changed. `None` where not enough of it was copied.
    fn conclude(
        &mut self,
        at: Avma,
        g: &Block,
        begin: Begin,
        window: Option<Part>,
        again: &Block,
    ) -> Option<Attempt> {
        let layout = &self.runtime.layout;
        if Fingerprint::of(g, layout) != Fingerprint::of(again, layout) {
            return Some(Attempt::Changed);
        }
        let stack = match (begin.start.clone(), window) {
            (Err(absence), _) => Err(absence),
            (Ok(start), Some(part)) if part.readable => {
                let (low, high) = (Avma(g.u64(0)), Avma(g.u64(8)));
                let mut words = StackWords::copied(self.memory, low, high, part.at, part.bytes);
                let most = self.frames_left.min(MAX_FRAMES);
                let stack = self.runtime.unwind(&mut words, start, self.arguments, most);
                if words.fell_short {
                    return None;
                }
                Ok(stack)
            }
            _ => return None,
        };
        Some(Attempt::Got(Box::new(self.goroutine(at, g, begin, stack))))
    }

    /// Reads one goroutine: the `g`, its stack, and the `g` again, until nothing changed between.
    /// `None` where there is none at the moment.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot be read, or changed at each attempt.
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

    /// Reads a goroutine whose thread is stopped, with that thread's registers. `None` where it
    /// is gone; a goroutine that is on no or on another thread by now is read as
    /// [`GoroutineReader::read`] would.
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
        let g = Block::read(self.memory, at, layout.g_size())?;
        let Some(status) = Status::of(g.u32(layout.g_status)) else { return Ok(Attempt::Dead) };
        let thread = self.thread(g.u64(layout.g_m));
        let context = stopped.filter(|(tid, _)| thread.is_some_and(|t| t.tid == *tid));
        let start = self.start(&g, status, thread, context.map(|(_, c)| c));
        let stack = start.clone().and_then(|start| self.stack(&g, start));
        let labels = labels::read(self.memory, layout, g.u64(layout.g_labels));
        let begin = Begin { status, thread, start, labels, bubble: self.bubble(&g) };

        let again = Block::read(self.memory, at, layout.g_size())?;
        if Fingerprint::of(&g, layout) != Fingerprint::of(&again, layout) {
            return Ok(Attempt::Changed);
        }
        Ok(Attempt::Got(Box::new(self.goroutine(at, &g, begin, stack))))
    }

    fn goroutine(
        &mut self,
        at: Avma,
        g: &Block,
        begin: Begin,
        stack: Result<Stack, StackAbsence>,
    ) -> Goroutine {
        let Begin { status, thread, labels: (labels, labels_incomplete), bubble, .. } = begin;
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

    fn bubble(&self, g: &Block) -> Option<u64> {
        let layout = &self.runtime.layout;
        let bubble = g.u64(present(layout.g_bubble)?);
        let id = present(layout.bubble_id)?;
        self.memory.read_u64(Avma(Some(bubble).filter(|b| *b != 0)?).wrapping_add(id)).ok()
    }

    /// Where the goroutine's registers are: see `unwinder.initAt`, and for a running goroutine
    /// `traceback1` and the comments on g.sched in Go's runtime.
    fn start(
        &self,
        g: &Block,
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

    /// The goroutine's thread is on another stack: the vdso's caller is noted in the `m`; on the
    /// thread's own stack the goroutine's state was saved before; in a signal handler it is lost.
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

    fn stack(&self, g: &Block, start: Start) -> Result<Stack, StackAbsence> {
        let mut words = StackWords::new(self.memory, Avma(g.u64(0)), Avma(g.u64(8)));
        let most = self.frames_left.min(MAX_FRAMES);
        let stack = self.runtime.unwind(&mut words, start, self.arguments, most);
        if stack.end == StackEnd::Unreadable && stack.frames.len() <= 1 {
            return Err(StackAbsence::Unreadable);
        }
        Ok(stack)
    }

    /// The text of a wait reason, from the runtime's own table: they are renumbered in almost
    /// every version. The first, empty, stands for none.
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

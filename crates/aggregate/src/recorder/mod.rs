//! Turns events into counted stacks: unwinds each sample, merges frames of language runtimes and
//! counts the result in the calling context tree.

mod off_cpu;

use std::collections::BTreeMap;
use std::sync::Arc;

use events::{Event, EventKind, Sample, USER_REGISTERS};
use image::{Arch, Avma, Mapping, MappingId, MappingKind};
use unwind::{End, Frame, Registers, Unwinder};

pub use self::off_cpu::Copied;
use crate::contexts::{Counts, StackTree};
use crate::ids::{
    CountKey, FrameIndex, FrameKey, LabelsIndex, NodeIndex, Place, ROOT, RuntimeIndex, ThreadId,
};
use crate::labels::LabelSets;
use crate::live_stack::LiveStacks;
use crate::processes::{Processes, Tracked};
use crate::runtimes::{
    CodeAddress, MergedFrame, Native, RUNTIMES, Row, Runtimes, SampledThread, WhichChain,
};
use crate::window::StackWindow;

/// Values at or above this in a kernel call chain are `PERF_CONTEXT_*` markers.
const FIRST_CONTEXT_MARKER: u64 = -4095i64 as u64;

/// The root frame of a stack of which only the inner part is known.
pub const TRUNCATED: &str = "[truncated stack]";
/// Prefix of the root frame of a stack that could not be unwound; the reason follows.
pub const BROKEN: &str = "[broken stack: ";

/// Deeper stacks end in `[broken stack: too many frames]`.
const MAX_FRAMES: usize = 16_384;

/// How many samples were recorded, and how complete their stacks are.
#[derive(Debug, Clone, Default)]
pub struct SampleStats {
    /// Samples in the profile.
    pub kept: u64,
    /// Kept samples whose user stack was larger than the copied window and was completed from the
    /// live stack, which agreed with the copy.
    pub completed: u64,
    /// Kept samples whose stack ends in a `[truncated stack]` frame.
    pub truncated: u64,
    /// Kept samples whose stack ends in a `[broken stack: …]` frame, by reason.
    pub broken: BTreeMap<String, u64>,
    /// Kept samples of threads without a user stack: exiting, or in exec.
    pub no_user_stack: u64,
    /// Whether calling contexts were left out because there were too many.
    pub contexts_cut: bool,
}

impl SampleStats {
    /// The number of broken stacks, for all reasons together.
    #[must_use]
    pub fn broken_total(&self) -> u64 {
        self.broken.values().sum()
    }
}

/// Processes events, which must arrive ordered by time, and keeps the state of a recording.
pub struct Recorder {
    /// The followed processes.
    pub processes: Processes,
    /// All calling contexts.
    pub tree: StackTree,
    /// How often each calling context was sampled.
    pub counts: Counts,
    /// Statistics of the samples.
    pub stats: SampleStats,
    /// The mappings that contain frames, as they were when the first frame in them was seen.
    pub mappings: BTreeMap<MappingId, Arc<Mapping>>,
    /// Names of [`Place::Marker`] frames.
    pub markers: Vec<String>,
    /// Labels that the targets have set, such as Go's goroutine labels.
    pub labels: LabelSets,
    /// The language runtimes among the targets.
    pub runtimes: Runtimes,
    /// The current stack after a runtime has merged its frames into it.
    merged: Vec<MergedFrame>,
    unwinder: Unwinder,
    frames: Vec<Frame>,
    registers: Vec<u64>,
    indices: Vec<FrameIndex>,
    /// Weight of a sample that does not carry its own period.
    period: u64,
    /// Samples before this time (CLOCK_MONOTONIC, nanoseconds) are ignored: not everything was
    /// attached yet.
    pub start: u64,
    /// The time at which each thread's own events were in place, by TID.
    attached: BTreeMap<i32, u64>,
    /// Threads that were given their own events and turned out to have inherited events as well.
    pub doubled: Vec<i32>,
    recent: Recent,
    live: LiveStacks,
}

/// How often the stack window was too small lately.
#[derive(Default)]
struct Recent {
    samples: u32,
    too_deep: u32,
}

/// A thread that is created this soon after its creator's events were attached may not have
/// inherited them.
const ATTACH_MARGIN_NS: u64 = 2_000_000;

impl Recorder {
    /// Creates a recorder that follows no process yet. `period` is the weight of samples that do
    /// not carry their own. With `follow_children`, forked processes are followed too.
    pub fn new(follow_children: bool, period: u64) -> Self {
        Self::with_runtimes(follow_children, period, RUNTIMES)
    }

    /// Like [`Recorder::new`], with another table of runtimes.
    pub fn with_runtimes(follow_children: bool, period: u64, rows: &[Row]) -> Self {
        let mut unwinder = Unwinder::new(Arch::host());
        unwinder.set_max_frames(MAX_FRAMES);
        let mut processes = Processes::new(follow_children);
        processes.keep_files(rows.iter().filter_map(|row| row.keeps_file));
        Self {
            processes,
            tree: StackTree::default(),
            counts: Counts::default(),
            stats: SampleStats::default(),
            mappings: BTreeMap::new(),
            markers: Vec::new(),
            labels: LabelSets::default(),
            runtimes: Runtimes::new(rows),
            merged: Vec::new(),
            unwinder,
            frames: Vec::new(),
            registers: Vec::new(),
            indices: Vec::new(),
            period,
            start: u64::MAX,
            attached: BTreeMap::new(),
            doubled: Vec::new(),
            recent: Recent::default(),
            live: LiveStacks::default(),
        }
    }

    /// Notes that a thread has had its own events since `now` (CLOCK_MONOTONIC, nanoseconds).
    pub fn attached(&mut self, tid: i32, now: u64) {
        self.attached.insert(tid, now);
    }

    /// Whether the thread is being sampled, through its own events or inherited ones.
    pub fn covers(&self, pid: i32, tid: i32) -> bool {
        let inherited = || self.processes.get(pid)?.threads.get(&tid)?.origin;
        self.attached.contains_key(&tid) || inherited().is_some()
    }

    /// Forgets which threads have events of their own, because all events were replaced.
    pub fn reattach(&mut self) {
        self.attached.clear();
        self.recent = Recent::default();
    }

    /// Whether a larger stack window would have completed more than one in a hundred of the
    /// recent samples. Restarts the count, unless there are too few samples to tell.
    pub fn window_is_too_small(&mut self) -> bool {
        let Recent { samples, too_deep } = self.recent;
        if samples < 50 && too_deep < 3 {
            return false;
        }
        self.recent = Recent::default();
        too_deep * 100 > samples
    }

    /// Starts a new round of reading the ring buffers. `now` is CLOCK_MONOTONIC in nanoseconds.
    pub fn next_round(&mut self, now: u64) {
        self.live.next_round(now);
        self.runtimes.next_round();
    }

    /// Forgets what runtimes know about a process, because its PID was reused or it runs another
    /// program. For recordings that read stopped threads and receive no event about this.
    pub fn forget(&mut self, pid: i32) {
        self.runtimes.forget(pid);
    }

    /// Searches the mappings added since the last call for language runtimes.
    pub fn look_for_runtimes(&mut self) {
        self.runtimes.search(&self.processes);
    }

    /// Notes on runtimes, their frames and labels, for the profile's comments.
    pub fn runtime_notes(&self) -> Vec<String> {
        let mut notes = self.runtimes.notes();
        notes.extend(self.labels.note());
        let lost = self.unwinder.c_frames_lost();
        if lost > 0 {
            notes.push(format!("stacks with C frames missing between those of a runtime: {lost}"));
        }
        notes
    }

    /// Processes one event.
    pub fn event(&mut self, e: &Event<'_>) {
        match e.kind {
            EventKind::Sample(ref s) => self.sample(e, s),
            EventKind::Mmap(ref m) => self.processes.mapped(e.pid, m, e.time),
            EventKind::Comm(c) => {
                if c.exec {
                    self.runtimes.forget(e.pid);
                }
                self.processes.named(e.pid, e.tid, c, e.time);
            }
            EventKind::Fork(f) => {
                let since = self.attached.get(&f.parent_tid).copied();
                let inherited = since.is_none_or(|t| t + ATTACH_MARGIN_NS < e.time);
                self.processes.forked(f, e.time, inherited);
                if f.pid == f.parent_pid {
                    self.runtimes.thread_created(f.pid);
                }
                if inherited && self.attached.remove(&f.tid).is_some() {
                    self.doubled.push(f.tid);
                }
            }
            EventKind::Exit(f) => {
                self.processes.exited(f);
                self.runtimes.thread_ended(ThreadId { pid: f.pid, tid: f.tid });
            }
            EventKind::Lost { .. }
            | EventKind::Switch { .. }
            | EventKind::Throttle
            | EventKind::Unthrottle
            | EventKind::Other => {}
        }
    }

    fn sample(&mut self, e: &Event<'_>, s: &Sample<'_>) {
        if e.time < self.start {
            return;
        }
        let Some(thread) = self.processes.sampled(e.pid, e.tid) else { return };
        let (id, chain) = (ThreadId { pid: e.pid, tid: e.tid }, WhichChain::Near(e.time));
        let (node, labels) = self.user_stack(id, e.time, chain, s);
        let stack = self.kernel_stack(node, s.callchain.iter());
        let weight = if s.period > 0 { s.period } else { self.period };
        self.counts.add(CountKey { thread, stack, labels }, weight);
        self.stats.kept += 1;
        self.stats.contexts_cut = self.tree.is_full();
    }

    /// Unwinds and interns the user stack of a sample. Returns its node and the labels that the
    /// program has set. `time` is CLOCK_MONOTONIC in nanoseconds.
    pub fn user_stack(
        &mut self,
        id: ThreadId,
        time: u64,
        chain: WhichChain,
        s: &Sample<'_>,
    ) -> (NodeIndex, LabelsIndex) {
        self.recent.samples += 1;
        if s.registers.is_empty() {
            self.stats.no_user_stack += 1;
            return (self.marker(ROOT, "[no user stack]".into()), 0);
        }
        if s.abi_32 {
            return (self.broken("32-bit code".into()), 0);
        }
        self.registers.clear();
        self.registers.extend(s.registers.iter());
        let registers = Registers::from_perf(Arch::host(), &self.registers, USER_REGISTERS);
        let Some(tracked) = self.processes.get(id.pid) else { return (ROOT, 0) };
        let at = self.runtimes.attached(id.pid);
        let thread = SampledThread { id, tracked, time, registers: &registers };
        let captured = self.runtimes.captured(at, &thread);
        let window = StackWindow::new(&registers, s.stack);
        self.frames.clear();
        let (unwinder, frames) = (&mut self.unwinder, &mut self.frames);
        let mut end = match &captured {
            Some(c) => c.unwind(unwinder, tracked, &registers, &window, frames),
            None => unwinder.unwind(&tracked.space, &registers, &window, frames),
        };
        if let End::Truncated { unreadable, .. } = end {
            self.recent.too_deep += u32::from(s.stack_full);
            let window = (&window, unreadable);
            if let Some(root) = self.live.complete(unwinder, tracked, id, window, frames) {
                self.stats.completed += 1;
                end = root;
            }
        }
        let (frames, is_whole) = (&*frames, end.is_root());
        let native = Native { pid: id.pid, tracked, frames, is_whole, memory: &window };
        let merged = self.runtimes.merge_sampled(at, (id, chain), &native, &mut self.merged);
        let labels = captured.map_or(0, |c| self.labels.intern(c.labels));
        let root = self.outermost(end);
        (self.intern_user_frames(id.pid, root, merged, time), labels)
    }

    /// The node to which the outermost frame is attached: the root, or a marker that says why the
    /// stack is incomplete.
    fn outermost(&mut self, end: End) -> NodeIndex {
        match end {
            End::Root(_) => ROOT,
            End::Truncated { .. } => {
                self.stats.truncated += 1;
                self.marker(ROOT, TRUNCATED.into())
            }
            End::Broken(reason) => self.broken(reason.to_string()),
        }
    }

    fn broken(&mut self, reason: String) -> NodeIndex {
        let node = self.marker(ROOT, format!("{BROKEN}{reason}]"));
        *self.stats.broken.entry(reason).or_default() += 1;
        node
    }

    /// Adds the user frames below `root` and returns the leaf's node. The frames are the unwound
    /// ones, or the stack into which the runtime `merged` has merged its own frames.
    fn intern_user_frames(
        &mut self,
        pid: i32,
        root: NodeIndex,
        merged: Option<RuntimeIndex>,
        time: u64,
    ) -> NodeIndex {
        let Self { processes, runtimes, tree, mappings, frames, indices, .. } = self;
        let tracked = processes.get(pid);
        let mut interner = Interner { pid, tracked, time, runtimes, tree, mappings };
        indices.clear();
        match merged {
            None => indices.extend(frames.iter().map(|frame| interner.native(frame))),
            Some(runtime) => indices.extend(self.merged.iter().map(|frame| match *frame {
                MergedFrame::Native(i) => interner.native(&frames[i]),
                MergedFrame::Own(index) => interner.own(runtime, index),
            })),
        }
        indices.iter().rev().fold(root, |node, &frame| tree.child(node, frame))
    }

    /// Adds the kernel frames of a sample below `node`, the leaf of the user stack, and returns the
    /// leaf's node. `chain` is a perf call chain, leaf first; markers in it are skipped.
    pub fn kernel_stack(&mut self, node: NodeIndex, chain: impl Iterator<Item = u64>) -> NodeIndex {
        self.indices.clear();
        let addresses = chain.filter(|a| *a < FIRST_CONTEXT_MARKER);
        for (i, address) in addresses.enumerate() {
            // The first is the instruction pointer; the others are return addresses.
            let address = Avma(address - u64::from(i > 0 && address > 0));
            self.indices.push(self.tree.frame(FrameKey { place: Place::Kernel, address }));
        }
        let tree = &mut self.tree;
        self.indices.iter().rev().fold(node, |node, &frame| tree.child(node, frame))
    }

    /// Adds a frame that is not code, such as `[truncated stack]`, below `parent`.
    pub fn marker(&mut self, parent: NodeIndex, name: String) -> NodeIndex {
        let index = self.markers.iter().position(|m| *m == name).unwrap_or_else(|| {
            self.markers.push(name);
            self.markers.len() - 1
        });
        let key = FrameKey { place: Place::Marker, address: Avma(index as u64) };
        let frame = self.tree.frame(key);
        self.tree.child(parent, frame)
    }
}

/// Whether a mapping may hold JIT-compiled code: anonymous memory, or a memfd that is mapped twice,
/// once writable and once executable (.NET).
fn is_compiled_code(mapping: &Mapping) -> bool {
    match mapping.kind {
        MappingKind::Anonymous => true,
        MappingKind::File => mapping.image.is_err() && mapping.name.starts_with("/memfd:"),
        MappingKind::Vdso | MappingKind::Vsyscall => false,
    }
}

/// Turns the user frames of a sample into frame indices.
struct Interner<'a> {
    pid: i32,
    tracked: Option<&'a Tracked>,
    time: u64,
    runtimes: &'a mut Runtimes,
    tree: &'a mut StackTree,
    mappings: &'a mut BTreeMap<MappingId, Arc<Mapping>>,
}

impl Interner<'_> {
    fn own(&mut self, runtime: RuntimeIndex, index: u32) -> FrameIndex {
        let place = Place::Runtime { runtime, mapping: None, index };
        self.tree.frame(FrameKey { place, address: Avma(0) })
    }

    fn native(&mut self, frame: &Frame) -> FrameIndex {
        let Self { pid, tracked, time, .. } = *self;
        let address = frame.lookup_address();
        let mapping = tracked.and_then(|t| t.space.find(address));
        let mut place = frame.mapping.map_or(Place::Unmapped, Place::User);
        if let (Some(tracked), Some(m), Place::User(id)) = (tracked, mapping, place)
            && is_compiled_code(m)
        {
            let code = CodeAddress { pid, tracked, address, time };
            if let Some((runtime, index)) = self.runtimes.code_at(&code) {
                place = Place::Runtime { runtime, mapping: Some(id), index };
            }
        }
        let known = self.tree.frames().len();
        let index = self.tree.frame(FrameKey { place, address });
        if self.tree.frames().len() > known
            && let Some(mapping) = mapping
        {
            self.mappings.entry(mapping.id).or_insert_with(|| mapping.clone());
        }
        index
    }
}

#[cfg(test)]
mod tests;

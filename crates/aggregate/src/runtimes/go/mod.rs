//! Go programs among the targets of a CPU profile: the stacks that a sample alone does not hold,
//! and the labels of goroutines.
//!
//! Where a thread of a Go program is on its system stack, the sample's copy of the stack ends where
//! that does, and the goroutine's own stack is elsewhere, to change within microseconds. So a BPF
//! program copies it, with the goroutine's labels, in the moment of the sample
//! ([`events::GoroutineCapture`]). It has to know each thread's `runtime.m`, which is read here
//! from the runtime's list of threads whenever there is a new one.

mod still;

use std::collections::VecDeque;
use std::sync::Arc;

use events::{
    BpfError, Capture, Chains, FieldOffsets, GoThread, GoroutineCapture, Part, StackCopy,
};
use goruntime::Runtime;
use image::{Arch, Avma, Bias, ElfImage, Memory, Unreadable};
use process::Process;
use rustc_hash::FxHashMap;
use unwind::{GoStacks, Registers};

use crate::ids::{LabelSet, LabelsIndex};
use crate::processes::{Processes, Tracked};
use crate::window::StackWindow;

/// A program that has just begun gets its runtime ready within this many readings of the rings.
const MAX_TRIES: u32 = 100;
/// A thread that has just begun enters the runtime's list within as many.
const MAX_REFRESHES: u32 = 10;
/// Captures whose samples have not been read yet, per thread: those of 200 ms at 10 kHz. More
/// wait only where samples were lost.
const MAX_WAITING: usize = 2048;
/// Sample and capture are taken one right after the other, the sample first since Linux 6.3 and
/// last before; a virtual machine may be held up between. Their registers tell whether they belong
/// together, except where the kernel was interrupted. In nanoseconds.
const MAX_DISTANCE: u64 = 2_000_000;
const MAX_DISTANCE_IN_KERNEL: u64 = 100_000;
/// Different sets of labels that are kept apart.
const MAX_LABEL_SETS: usize = 100_000;

/// What became of the samples of Go programs.
#[derive(Debug, Default)]
struct GoStats {
    samples: u64,
    /// Nothing was captured with them.
    missing: u64,
    labelled: u64,
    /// Labels there were, but they could not be read, or not all of them.
    unreadable: u64,
    incomplete: u64,
}

struct GoProgram {
    /// What it was found in.
    image: (Arc<ElfImage>, Bias),
    runtime: Runtime,
    has_cgo: bool,
    /// Readings of the list of threads that are still to be made.
    refreshes: u32,
    machines: still::Machines,
}

impl GoProgram {
    fn is(&self, image: &Arc<ElfImage>, bias: Bias) -> bool {
        Arc::ptr_eq(&self.image.0, image) && self.image.1 == bias
    }
}

/// See the module.
#[derive(Default)]
pub struct GoSampling {
    capture: Option<GoroutineCapture>,
    /// Why there are no captures.
    refused: Option<String>,
    /// Processes that may be Go programs, with the tries that were made to find out.
    undecided: FxHashMap<i32, u32>,
    programs: FxHashMap<i32, GoProgram>,
    waiting: FxHashMap<i32, VecDeque<Capture>>,
    label_sets: Vec<LabelSet>,
    label_index: FxHashMap<LabelSet, LabelsIndex>,
    stats: GoStats,
    /// Where it is read: the mappings that each process was looked for a runtime in.
    looked: FxHashMap<i32, u64>,
    round: u64,
}

impl GoSampling {
    /// A process became another program, or is followed from now on.
    pub fn look_at(&mut self, pid: i32) {
        self.programs.remove(&pid);
        self.undecided.insert(pid, 0);
    }

    /// A thread was created in a process.
    pub(crate) fn thread_created(&mut self, pid: i32) {
        if let Some(program) = self.programs.get_mut(&pid) {
            program.refreshes = MAX_REFRESHES;
        }
    }

    /// A thread ended.
    pub(crate) fn thread_ended(&mut self, pid: i32, tid: i32) {
        if self.programs.contains_key(&pid) {
            if let Some(capture) = &mut self.capture {
                capture.forget(tid);
            }
            self.waiting.remove(&tid);
        }
    }

    /// Looks for Go programs and their threads. Gives the BPF program when the first is found: it
    /// is to run with each sample from then on.
    pub fn refresh(&mut self, processes: &Processes) -> Option<std::os::fd::OwnedFd> {
        let mut program = None;
        let undecided: Vec<i32> = self.undecided.keys().copied().collect();
        for pid in undecided {
            let tries = self.undecided.get_mut(&pid)?;
            *tries += 1;
            let last = *tries > MAX_TRIES;
            match processes.get(pid).map_or(Found::NotGo, find) {
                Found::Go(found) => {
                    self.undecided.remove(&pid);
                    self.programs.insert(pid, *found);
                    if self.capture.is_none() && self.refused.is_none() {
                        program = self.load();
                    }
                }
                Found::NotYet if !last => {}
                Found::NotGo | Found::NotYet => {
                    self.undecided.remove(&pid);
                }
            }
        }
        self.refresh_threads(processes);
        program
    }

    fn load(&mut self) -> Option<std::os::fd::OwnedFd> {
        let loaded = GoroutineCapture::load().and_then(|c| Ok((c.program()?, c)));
        match loaded {
            Ok((program, capture)) => {
                self.capture = Some(capture);
                Some(program)
            }
            Err(e) => {
                self.refuse(&e);
                None
            }
        }
    }

    /// The samples go without captures.
    pub fn refuse(&mut self, why: &BpfError) {
        self.refused = Some(why.to_string());
        self.capture = None;
    }

    /// Whether goroutines are captured with samples.
    pub fn captures(&self) -> bool {
        self.capture.is_some()
    }

    /// Has the program that follows interpreters run at the same samples.
    pub fn then(&mut self, chains: &Chains) -> Result<(), BpfError> {
        self.capture.as_mut().map_or(Ok(()), |capture| capture.then(chains))
    }

    fn refresh_threads(&mut self, processes: &Processes) {
        let Some(capture) = &mut self.capture else { return };
        for (pid, program) in self.programs.iter_mut().filter(|(_, p)| p.refreshes > 0) {
            program.refreshes -= 1;
            let Some(tracked) = processes.get(*pid) else { continue };
            let (Some(process), Some(memory)) = (&tracked.process, &tracked.memory) else {
                continue;
            };
            // A list that changes while it is read is read again with the next thread's begin.
            let Ok(machines) = program.runtime.machines(memory) else { continue };
            let by_inner: FxHashMap<u64, Avma> = machines.into_iter().collect();
            for (tid, inner) in thread_ids(process) {
                if let Some(m) = by_inner.get(&u64::from(inner.cast_unsigned())) {
                    capture.watch(tid, &thread(program, *m, inner));
                }
            }
        }
    }

    /// Takes what was captured since; before the samples are read.
    pub(crate) fn drain(&mut self) {
        let (Some(capture), waiting) = (&mut self.capture, &mut self.waiting) else { return };
        capture.drain(|part| match part {
            Part::Goroutine(capture) => {
                let queue = waiting.entry(capture.tid).or_default();
                if queue.len() >= MAX_WAITING {
                    queue.pop_front();
                }
                queue.push_back(*capture);
            }
            other => {
                if let Some(last) = waiting.get_mut(&other.tid()).and_then(VecDeque::back_mut) {
                    other.complete(last);
                }
            }
        });
    }

    /// The capture of a sample.
    pub(crate) fn take(
        &mut self,
        pid: i32,
        tid: i32,
        time: u64,
        registers: &Registers,
    ) -> Option<Capture> {
        if !self.programs.contains_key(&pid) {
            return None;
        }
        self.stats.samples += 1;
        let place = (registers.pc().unwrap_or_default(), registers.sp().unwrap_or_default());
        let own = self.waiting.get_mut(&tid).and_then(|queue| {
            while queue.front().is_some_and(|c| c.time + MAX_DISTANCE < time) {
                queue.pop_front();
            }
            let near = |c: &&Capture| c.time <= time + MAX_DISTANCE;
            let at = queue.iter().take_while(near).position(|c| belongs(c, time, place))?;
            queue.drain(..at);
            queue.pop_front()
        });
        self.stats.missing += u64::from(own.is_none());
        own
    }

    /// The labels of a capture.
    pub(crate) fn labels(&mut self, pid: i32, tracked: &Tracked, capture: &Capture) -> LabelsIndex {
        if capture.labels_at == 0 {
            return 0;
        }
        let (labels, incomplete) = match &capture.labels {
            Some(l) if !l.incomplete => (l.labels.clone(), false),
            // More labels, or longer ones, than the capture holds: from live memory, if what was
            // captured is still a part of what is there.
            Some(l) => self.whole_labels(pid, tracked, capture, &l.labels),
            None => (Vec::new(), true),
        };
        self.stats.incomplete += u64::from(incomplete && !labels.is_empty());
        if labels.is_empty() {
            self.stats.unreadable += u64::from(incomplete);
            return 0;
        }
        self.stats.labelled += 1;
        self.intern(labels)
    }

    fn whole_labels(
        &self,
        pid: i32,
        tracked: &Tracked,
        capture: &Capture,
        part: &[(String, String)],
    ) -> (Vec<(String, String)>, bool) {
        let kept = (part.to_vec(), true);
        let (Some(program), Some(memory)) = (self.programs.get(&pid), &tracked.memory) else {
            return kept;
        };
        let runtime = &program.runtime;
        let (whole, cut) = runtime.labels_at(memory, Avma(capture.labels_at));
        // The set is never written to again, but its memory may be used for something else once
        // the goroutine has another: either it still has this one, or the part is in the whole.
        let layout = runtime.sample_layout();
        let word = |offset| memory.read_u64(Avma(capture.g).wrapping_add(offset)).ok();
        let still = word(layout.g_labels) == Some(capture.labels_at)
            && word(layout.g_goid) == Some(capture.goid);
        let in_whole = |(key, value): &(String, String)| {
            whole.iter().any(|(k, v)| k.starts_with(&**key) && v.starts_with(&**value))
        };
        // A character that was cut through reads as a replacement, and tells nothing.
        let is_cut = |(k, v): &(String, String)| k.ends_with('\u{fffd}') || v.ends_with('\u{fffd}');
        let same = part.iter().any(in_whole) && part.iter().all(|l| is_cut(l) || in_whole(l));
        if still || same { (whole, cut) } else { kept }
    }

    fn intern(&mut self, mut labels: Vec<(String, String)>) -> LabelsIndex {
        labels.sort();
        labels.dedup_by(|a, b| a.0 == b.0);
        let set: LabelSet = labels.into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v))).collect();
        if let Some(index) = self.label_index.get(&set) {
            return *index;
        }
        if self.label_sets.len() >= MAX_LABEL_SETS {
            self.stats.labelled -= 1;
            self.stats.unreadable += 1;
            return 0;
        }
        self.label_sets.push(set.clone());
        let index = self.label_sets.len() as LabelsIndex;
        self.label_index.insert(set, index);
        index
    }

    /// The labels behind an index.
    pub fn label_set(&self, index: LabelsIndex) -> &[(Arc<str>, Arc<str>)] {
        let at = (index as usize).checked_sub(1);
        at.and_then(|i| self.label_sets.get(i)).map_or(&[], |set| set)
    }

    /// What the profile's reader should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let (s, mut notes) = (&self.stats, Vec::new());
        if let Some(why) = &self.refused {
            notes.push(format!(
                "goroutine labels are not read, and stacks may end where a goroutine's thread \
                 has changed to its system stack: {why}"
            ));
        }
        if s.unreadable + s.incomplete > 0 {
            let with = s.labelled + s.unreadable;
            notes.push(format!(
                "goroutine labels: unreadable in {} of {with} samples, incomplete in {}",
                s.unreadable, s.incomplete
            ));
        }
        let Some(capture) = &self.capture else { return notes };
        let lost = capture.lost();
        if lost > 0 {
            notes.push(format!("goroutines: {lost} captures found no room"));
        }
        if s.missing > 0 {
            let all = s.samples;
            notes.push(format!("goroutines: not captured with {} of {all} samples", s.missing));
        }
        notes
    }
}

/// Whether a capture is that of the sample with these user registers.
fn belongs(c: &Capture, time: u64, place: (Avma, Avma)) -> bool {
    let in_kernel = c.pc.cast_signed() < 0;
    if in_kernel {
        c.time.abs_diff(time) < MAX_DISTANCE_IN_KERNEL
    } else {
        place == (Avma(c.pc), Avma(c.sp))
    }
}

enum Found {
    Go(Box<GoProgram>),
    /// Not at the moment, but soon perhaps: it has only just begun.
    NotYet,
    NotGo,
}

fn find(tracked: &Tracked) -> Found {
    let Some(memory) = &tracked.memory else { return Found::NotGo };
    let images = tracked.space.iter().filter_map(|m| m.image.as_ref().ok());
    let mut found = Found::NotYet;
    for (image, bias) in images.filter(|(image, _)| gopclntab::is_go(image)) {
        if image.arch() != Arch::host() {
            return Found::NotGo;
        }
        match Runtime::find(image, *bias, memory) {
            Ok(runtime) if runtime.machines(memory).is_ok_and(|all| !all.is_empty()) => {
                let has_cgo = runtime.has_cgo();
                let program = GoProgram {
                    image: (image.clone(), *bias),
                    runtime,
                    has_cgo,
                    refreshes: MAX_REFRESHES,
                    machines: still::Machines::default(),
                };
                return Found::Go(Box::new(program));
            }
            Ok(_) => {}
            Err(
                goruntime::FindError::NotGo
                | goruntime::FindError::NoVersion
                | goruntime::FindError::Unsupported(_),
            ) => found = Found::NotGo,
            Err(_) => {}
        }
    }
    found
}

/// The ids of all threads: ours, and those in the process' own pid namespace.
fn thread_ids(process: &Process) -> Vec<(i32, i32)> {
    let tids = process.threads().unwrap_or_default();
    let nested = process.identity().ns_pids.len() > 1;
    let inner = |tid| if nested { process.inner_thread_id(tid).unwrap_or(tid) } else { tid };
    tids.into_iter().map(|tid| (tid, inner(tid))).collect()
}

fn thread(program: &GoProgram, m: Avma, procid: i32) -> GoThread {
    let l = program.runtime.sample_layout();
    // Offsets within structures of some KiB.
    let small = |offset: u64| u32::try_from(offset).unwrap_or(0);
    GoThread {
        m: m.0,
        procid: u64::from(procid.cast_unsigned()),
        offsets: FieldOffsets {
            m_procid: small(l.m_procid),
            m_g0: small(l.m_g0),
            m_gsignal: small(l.m_gsignal),
            m_curg: small(l.m_curg),
            m_vdso_sp: small(l.m_vdso_sp),
            m_vdso_pc: small(l.m_vdso_pc),
            g_sched_sp: small(l.g_sched_sp),
            g_sched_pc: small(l.g_sched_pc),
            g_goid: small(l.g_goid),
            g_labels: small(l.g_labels),
        },
        labels_are_a_map: l.labels_are_a_map,
        has_cgo: program.has_cgo,
    }
}

/// Where the thread left its stacks, for the unwinder.
pub(crate) fn stacks(capture: &Capture) -> GoStacks {
    let pair = |(a, b): (u64, u64)| (Avma(a), Avma(b));
    GoStacks {
        bounds: pair(capture.stack_bounds),
        sched: (Avma(capture.sched.1), Avma(capture.sched.0)),
        vdso: (Avma(capture.vdso.1), Avma(capture.vdso.0)),
        system_sp: Some(Avma(capture.system_sp)).filter(|sp| sp.0 != 0),
    }
}

/// The sample's own copy, and what was captured with it.
pub(crate) struct GoMemory<'a, 'w> {
    pub window: &'a StackWindow<'w>,
    pub capture: &'a Capture,
}

impl Memory for GoMemory<'_, '_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let copies = [&self.capture.stack, &self.capture.system_stack];
        match copies.into_iter().find_map(|copy| within(copy, addr, buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.window.read(addr, buf),
        }
    }
}

fn within(copy: &StackCopy, addr: Avma, size: usize) -> Option<&[u8]> {
    let at = usize::try_from(addr.0.checked_sub(copy.start)?).ok()?;
    copy.bytes.get(at..at.checked_add(size)?)
}

//! Captures goroutine stacks and labels of Go programs for CPU profiles.
//!
//! If a thread of a Go program is on its system stack, the sample's copy of the stack ends where
//! the system stack ends. The goroutine's own stack is elsewhere and changes within microseconds,
//! so a BPF program copies it, with the goroutine's labels, at the moment of the sample
//! ([`events::GoroutineCapture`]). It needs the address of each thread's `runtime.m`, which is read
//! here from the runtime's list of threads whenever there is a new thread.

mod off_cpu;

use std::collections::VecDeque;
use std::sync::Arc;

use events::{Capture, FieldOffsets, GoThread, GoroutineCapture, Part, SampleProgram};
use image::{Arch, Avma, Bias, ElfImage, Memory as _};
use process::{Process, ProcessMemory};
use rustc_hash::FxHashMap;
use unwind::GoStacks;

use super::{Captured, OffCpuThread, Presence, Refused, Roles, Runtime, SampledThread};
use crate::ids::{Function, ThreadId};
use crate::processes::{Processes, Tracked};

/// How often the runtime's list of threads is read for a new thread; it is in the list by then.
const MAX_REFRESHES: u32 = 10;
/// Maximum number of captures per thread whose samples have not been read yet: those of 200 ms at
/// 10 kHz. There are only more if samples were lost.
const MAX_WAITING: usize = 2048;
/// Maximum time between a sample and its capture, in nanoseconds. One is taken directly after the
/// other (the sample first since Linux 6.3, the capture first before), but a virtual machine may be
/// paused in between. Their registers show whether they belong together.
const MAX_DISTANCE: u64 = 2_000_000;
/// The same where the kernel was interrupted, so that registers cannot be compared.
const MAX_DISTANCE_IN_KERNEL: u64 = 100_000;

/// Statistics of the samples of Go programs.
#[derive(Debug, Default)]
struct GoStats {
    samples: u64,
    /// Samples without a capture.
    missing: u64,
    labelled: u64,
    /// Samples with labels of which none could be read.
    unreadable: u64,
    /// Samples with labels of which only some could be read.
    incomplete: u64,
}

/// Keys and values.
type Labels = Vec<(String, String)>;

struct GoProgram {
    /// The image that contains the runtime.
    image: (Arc<ElfImage>, Bias),
    runtime: goruntime::Runtime,
    has_cgo: bool,
    /// How often the list of threads must still be read.
    refreshes: u32,
    threads: off_cpu::Threads,
}

impl GoProgram {
    /// Whether the process is a forked copy, whose runtime's list has the threads of its parent.
    fn was_forked(&self, tracked: &Tracked) -> bool {
        let (Some(process), Some(memory)) = (&tracked.process, &tracked.memory) else {
            return true;
        };
        let Ok(threads) = self.runtime.started_threads(memory) else { return false };
        let own: Vec<u64> =
            thread_ids(process).iter().map(|(_, inner)| u64::from(inner.cast_unsigned())).collect();
        // A runtime that is just starting does not know the TID of its first thread yet.
        !threads.is_empty() && threads.iter().all(|(id, _)| *id != 0 && !own.contains(id))
    }

    /// Whether the process still has the image at the same address.
    fn is_mapped(&self, tracked: &Tracked) -> bool {
        let (own, own_bias) = &self.image;
        let mut mapped = tracked.space.iter().filter_map(|m| m.image.as_ref().ok());
        mapped.any(|(image, bias)| Arc::ptr_eq(own, image) && own_bias == bias)
    }
}

/// The Go programs of a recording and what was captured for their samples.
#[derive(Default)]
struct Go {
    capture: Option<GoroutineCapture>,
    /// Why the BPF program cannot run.
    refused: Option<String>,
    programs: FxHashMap<i32, GoProgram>,
    waiting: FxHashMap<i32, VecDeque<Capture>>,
    stats: GoStats,
    round: u64,
}

/// Creates the state for one recording.
pub(super) fn new() -> Box<dyn Runtime> {
    Box::new(Go { round: 1, ..Go::default() })
}

impl Runtime for Go {
    fn attach(&mut self, pid: i32, tracked: &Tracked) -> Presence {
        let roles = Roles { stacks: true, ..Roles::default() };
        if self.programs.get(&pid).is_some_and(|program| program.is_mapped(tracked)) {
            return Presence::Attached(roles);
        }
        self.programs.remove(&pid);
        // A forked child of a Go program has no goroutines until it executes a program, which may
        // be the same one.
        let parent = tracked.parent.and_then(|parent| self.programs.get(&parent));
        if parent.is_some_and(|program| program.is_mapped(tracked) && program.was_forked(tracked)) {
            return Presence::Absent;
        }
        match find(tracked) {
            Found::Go(program) => {
                self.programs.insert(pid, *program);
                Presence::Attached(roles)
            }
            Found::NotYet => Presence::NotReady,
            Found::NotGo => Presence::Absent,
        }
    }

    fn detach(&mut self, pid: i32) {
        self.programs.remove(&pid);
    }

    /// Go frames are native frames, so this runtime never has to name any.
    fn functions(&self, _index: u32) -> Vec<Function> {
        Vec::new()
    }

    fn next_round(&mut self) {
        self.round += 1;
        self.drain();
    }

    fn refresh(&mut self, processes: &Processes) {
        self.refresh_threads(processes);
    }

    fn thread_created(&mut self, pid: i32) {
        if let Some(program) = self.programs.get_mut(&pid) {
            program.refreshes = MAX_REFRESHES;
        }
    }

    fn thread_ended(&mut self, id: ThreadId) {
        if self.programs.contains_key(&id.pid) {
            if let Some(capture) = &mut self.capture {
                capture.forget(id.tid);
            }
            self.waiting.remove(&id.tid);
        }
    }

    fn load_program(&mut self) -> Result<Option<SampleProgram>, Refused> {
        let capture = GoroutineCapture::load()?;
        let program = capture.program()?;
        self.capture = Some(capture);
        Ok(Some(program))
    }

    fn then(&mut self, next: &SampleProgram) -> Result<(), Refused> {
        let capture = self.capture.as_mut().ok_or("its BPF program is not loaded")?;
        Ok(capture.then(next)?)
    }

    fn program_refused(&mut self, why: &str) {
        self.refused = Some(why.to_owned());
        self.capture = None;
    }

    fn captured(&mut self, thread: &SampledThread<'_>) -> Option<Captured> {
        let mut capture = self.take(thread)?;
        let labels = self.labels(thread.id.pid, thread.tracked, &mut capture);
        Some(captured(capture, labels))
    }

    fn prepare_to_read(&mut self, process: &Process, memory: &ProcessMemory, tid: i32) {
        self.list_threads_for(process, memory, tid);
    }

    fn read(&mut self, thread: &OffCpuThread<'_>) -> Option<Captured> {
        self.read_off_cpu(thread)
    }

    fn notes(&self) -> Vec<String> {
        let (s, mut notes) = (&self.stats, Vec::new());
        if let Some(why) = &self.refused {
            notes.push(format!(
                "no goroutine labels, and stacks may end where a thread switched to its system \
                 stack: {why}"
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
            notes.push(format!("goroutine captures dropped because the buffer was full: {lost}"));
        }
        if s.missing > 0 {
            let all = s.samples;
            notes.push(format!("goroutines: not captured for {} of {all} samples", s.missing));
        }
        notes
    }
}

impl Go {
    fn refresh_threads(&mut self, processes: &Processes) {
        let Some(capture) = &mut self.capture else { return };
        for (pid, program) in self.programs.iter_mut().filter(|(_, p)| p.refreshes > 0) {
            program.refreshes -= 1;
            let Some(tracked) = processes.get(*pid) else { continue };
            let (Some(process), Some(memory)) = (&tracked.process, &tracked.memory) else {
                continue;
            };
            // If the list changed while it was read, it is read again when the next thread starts.
            let Ok(threads) = program.runtime.started_threads(memory) else { continue };
            let by_inner: FxHashMap<u64, Avma> = threads.into_iter().collect();
            for (tid, inner) in thread_ids(process) {
                if let Some(m) = by_inner.get(&u64::from(inner.cast_unsigned())) {
                    capture.watch(tid, &thread(program, *m, inner));
                }
            }
        }
    }

    /// Queues new captures. Must run before the samples that they belong to are read.
    fn drain(&mut self) {
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

    /// Takes the capture of a sample from the queue.
    fn take(&mut self, thread: &SampledThread<'_>) -> Option<Capture> {
        self.capture.as_ref()?;
        self.stats.samples += 1;
        let (time, registers) = (thread.time, thread.registers);
        let place = (registers.pc().unwrap_or_default(), registers.sp().unwrap_or_default());
        let queue = self.waiting.get_mut(&thread.id.tid);
        let own = queue.and_then(|queue| take_from(queue, time, place));
        self.stats.missing += u64::from(own.is_none());
        own
    }

    /// The labels of a capture, and counts them in the statistics.
    fn labels(&mut self, pid: i32, tracked: &Tracked, capture: &mut Capture) -> Labels {
        if capture.labels_at == 0 {
            return Vec::new();
        }
        let (labels, incomplete) = match capture.labels.take() {
            Some(l) if !l.incomplete => (l.labels, false),
            // There are more labels, or longer ones, than the capture can hold. They are read from
            // memory, if the labels there still include the captured ones.
            Some(l) => self.whole_labels(pid, tracked, capture, &l.labels),
            None => (Vec::new(), true),
        };
        self.count_labels(labels, incomplete)
    }

    fn count_labels(&mut self, labels: Labels, incomplete: bool) -> Labels {
        self.stats.incomplete += u64::from(incomplete && !labels.is_empty());
        self.stats.unreadable += u64::from(incomplete && labels.is_empty());
        self.stats.labelled += u64::from(!labels.is_empty());
        labels
    }

    fn whole_labels(
        &self,
        pid: i32,
        tracked: &Tracked,
        capture: &Capture,
        part: &[(String, String)],
    ) -> (Labels, bool) {
        let kept = (part.to_vec(), true);
        let (Some(program), Some(memory)) = (self.programs.get(&pid), &tracked.memory) else {
            return kept;
        };
        let runtime = &program.runtime;
        let (whole, cut) = runtime.labels_at(memory, Avma(capture.labels_at));
        // The set is immutable, but its memory may be reused once the goroutine has another set. So
        // either the goroutine must still have this set, or the set read must include the captured
        // part.
        let layout = runtime.sample_layout();
        let word = |offset| memory.read_u64(Avma(capture.g).wrapping_add(offset)).ok();
        let still = word(layout.g_labels) == Some(capture.labels_at)
            && word(layout.g_goid) == Some(capture.goid);
        let in_whole = |(key, value): &(String, String)| {
            whole.iter().any(|(k, v)| k.starts_with(&**key) && v.starts_with(&**value))
        };
        // A character that was cut in half reads as a replacement character and cannot be compared.
        let is_cut = |(k, v): &(String, String)| k.ends_with('\u{fffd}') || v.ends_with('\u{fffd}');
        let same = part.iter().any(in_whole) && part.iter().all(|l| is_cut(l) || in_whole(l));
        if still || same { (whole, cut) } else { kept }
    }
}

/// Takes the capture of the sample with this time and these user registers (PC and SP) from the
/// queue of its thread, and drops older ones.
fn take_from(queue: &mut VecDeque<Capture>, time: u64, place: (Avma, Avma)) -> Option<Capture> {
    while queue.front().is_some_and(|c| c.time + MAX_DISTANCE < time) {
        queue.pop_front();
    }
    let near = |c: &&Capture| c.time <= time + MAX_DISTANCE;
    let at = queue.iter().take_while(near).position(|c| belongs(c, time, place))?;
    queue.drain(..at);
    queue.pop_front()
}

/// Whether a capture belongs to the sample with this time and these user registers (PC and SP).
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
    /// The runtime cannot be read yet; the process may have just started.
    NotYet,
    NotGo,
}

fn find(tracked: &Tracked) -> Found {
    let Some(memory) = &tracked.memory else { return Found::NotGo };
    let images = tracked.space.iter().filter_map(|m| m.image.as_ref().ok());
    let mut found = Found::NotGo;
    for (image, bias) in images.filter(|(image, _)| gopclntab::is_go(image)) {
        if image.arch() != Arch::host() {
            return Found::NotGo;
        }
        match goruntime::Runtime::find(image, *bias, memory) {
            Ok(runtime) if runtime.started_threads(memory).is_ok_and(|all| !all.is_empty()) => {
                let has_cgo = runtime.has_cgo();
                let (version, layout) = (runtime.version(), runtime.layout_source());
                tracing::info!(%version, ?layout, has_cgo, "Go runtime found");
                let program = GoProgram {
                    image: (image.clone(), *bias),
                    runtime,
                    has_cgo,
                    refreshes: MAX_REFRESHES,
                    threads: off_cpu::Threads::default(),
                };
                return Found::Go(Box::new(program));
            }
            Err(
                goruntime::FindError::NotGo
                | goruntime::FindError::NoVersion
                | goruntime::FindError::Unsupported(_),
            ) => {}
            Ok(_) | Err(_) => found = Found::NotYet,
        }
    }
    found
}

/// The IDs of all threads, in our PID namespace and in that of the process.
fn thread_ids(process: &Process) -> Vec<(i32, i32)> {
    let tids = process.threads().unwrap_or_default();
    let nested = process.identity().ns_pids.len() > 1;
    let inner = |tid| if nested { process.inner_thread_id(tid).unwrap_or(tid) } else { tid };
    tids.into_iter().map(|tid| (tid, inner(tid))).collect()
}

fn thread(program: &GoProgram, m: Avma, procid: i32) -> GoThread {
    let l = program.runtime.sample_layout();
    // Offsets are within structs of a few KiB.
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

/// Converts a capture for the unwinder.
fn captured(capture: Capture, labels: Labels) -> Captured {
    let pair = |(a, b): (u64, u64)| (Avma(a), Avma(b));
    let stacks = GoStacks {
        bounds: pair(capture.stack_bounds),
        sched: (Avma(capture.sched.1), Avma(capture.sched.0)),
        vdso: (Avma(capture.vdso.1), Avma(capture.vdso.0)),
        system_sp: Some(Avma(capture.system_sp)).filter(|sp| sp.0 != 0),
    };
    Captured { stacks: Some(stacks), copies: [capture.stack, capture.system_stack], labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 10 * MAX_DISTANCE;

    fn taken(captures: &[(u64, u64)]) -> (Option<u64>, usize) {
        let capture = |&(time, pc): &(u64, u64)| Capture { time, pc, sp: 8, ..Capture::default() };
        let mut queue: VecDeque<_> = captures.iter().map(capture).collect();
        let own = take_from(&mut queue, TIME, (Avma(1), Avma(8)));
        (own.map(|c| c.time), queue.len())
    }

    #[test]
    fn a_sample_takes_the_capture_with_its_registers_and_drops_older_ones() {
        let (oldest, newest) = (TIME - MAX_DISTANCE, TIME + MAX_DISTANCE);
        assert_eq!(taken(&[]), (None, 0));
        assert_eq!(taken(&[(oldest, 1)]), (Some(oldest), 0));
        assert_eq!(taken(&[(oldest - 1, 1)]), (None, 0));
        assert_eq!(taken(&[(newest, 1)]), (Some(newest), 0));
        assert_eq!(taken(&[(newest + 1, 1)]), (None, 1));
        // Too old, in another place, its own, and that of the next sample.
        let queue = [(oldest - 1, 1), (oldest, 2), (TIME, 1), (TIME + 1, 1)];
        assert_eq!(taken(&queue), (Some(TIME), 1));
        assert_eq!(taken(&[(oldest - 1, 1), (oldest, 2)]), (None, 1));
    }

    #[test]
    fn a_capture_in_the_kernel_belongs_to_the_sample_of_its_time() {
        let kernel = u64::MAX;
        let (near, far) = (TIME + MAX_DISTANCE_IN_KERNEL - 1, TIME + MAX_DISTANCE_IN_KERNEL);
        assert_eq!(taken(&[(near, kernel)]), (Some(near), 0));
        assert_eq!(taken(&[(far, kernel)]), (None, 1));
    }

    #[test]
    fn samples_are_counted_by_how_many_of_their_labels_were_read() {
        let mut go = Go::default();
        let some = vec![("key".to_owned(), "value".to_owned())];
        for (labels, incomplete) in [(&some, false), (&some, true), (&Vec::new(), true)] {
            assert_eq!(go.count_labels(labels.clone(), incomplete), *labels);
        }
        go.count_labels(Vec::new(), false);
        let stats = &go.stats;
        assert_eq!((stats.labelled, stats.incomplete, stats.unreadable), (2, 1, 1));
    }

    #[test]
    fn threads_outside_containers_have_one_id() {
        let own = Process::open(std::process::id().cast_signed()).expect("we live");
        let ids = thread_ids(&own);
        let nested = own.identity().ns_pids.len() > 1;
        assert!(ids.iter().any(|(outer, _)| *outer == own.pid()), "{ids:?}");
        assert!(nested || ids.iter().all(|(outer, inner)| outer == inner), "{ids:?}");
    }
}

//! Adds a made-up runtime and checks its frames in samples and in stacks of stopped threads.
//!
//! Adding a runtime must need no more than an implementation of the trait and a table row.

use std::sync::Arc;

use aggregate::clock::monotonic_now;
use aggregate::ids::{CountKey, Function, NodeIndex, ThreadId};
use aggregate::processes::Tracked;
use aggregate::recorder::{Copied, Recorder};
use aggregate::runtimes::{
    Captured, CodeAddress, MergedFrame, OffCpuThread, Presence, RUNTIMES, Roles, Row, Runtime,
    SampledThread, UnwoundStack,
};
use assemble::Stats;
use assemble::builder::Valued;
use assemble::conclude::{Header, Named, Targets};
use assemble::debugfiles::TargetFiles;
use events::{Comm, Event, EventKind, Fork, MmapEvent, Sample, USER_REGISTERS, Words};
use image::{Arch, Avma};
use pprof::kinds::GOROUTINE;
use process::Process;
use unwind::Registers;

/// Addresses of the made-up runtime's library and of the code that it compiles.
const LIBRARY: u64 = 0x1000_0000;
const COMPILED: u64 = 0x2000_0000;
const SIZE: u64 = 0x1000;
/// The stack pointer. The word there is the index of the function that the runtime executes.
const SP: u64 = 0x3000_0000;

/// Indices of the runtime's functions. The first one contains an inlined call.
const INTERPRETED: u32 = 7;
const IN_MEMORY: u32 = 8;

#[derive(Default)]
struct MadeUp {
    pids: Vec<i32>,
    threads: (u32, u32),
    finished: bool,
}

fn captured(how: &str) -> Captured {
    Captured { labels: vec![("request".into(), how.into())], ..Captured::default() }
}

impl Runtime for MadeUp {
    fn attach(&mut self, pid: i32, tracked: &Tracked) -> Presence {
        if !tracked.space.iter().any(|m| m.name.ends_with("/libmadeup.so")) {
            return Presence::Absent;
        }
        if !self.pids.contains(&pid) {
            self.pids.push(pid);
            return Presence::NotReady;
        }
        Presence::Attached(Roles { stacks: true, frames: true, code: true })
    }

    fn detach(&mut self, pid: i32) {
        self.pids.retain(|p| *p != pid);
    }

    fn thread_created(&mut self, _pid: i32) {
        self.threads.0 += 1;
    }

    fn thread_ended(&mut self, _id: ThreadId) {
        self.threads.1 += 1;
    }

    fn captured(&mut self, _thread: &SampledThread<'_>) -> Option<Captured> {
        Some(captured("sampled"))
    }

    fn read(&mut self, _thread: &OffCpuThread<'_>) -> Option<Captured> {
        Some(captured("read"))
    }

    fn merge(&mut self, stack: &UnwoundStack<'_>, out: &mut Vec<MergedFrame>) -> bool {
        let Ok(function) = stack.memory.read_u64(Avma(SP)) else { return false };
        out.clear();
        out.push(MergedFrame::Own(function as u32));
        out.extend((0..stack.frames.len()).map(MergedFrame::Native));
        true
    }

    fn code_at(&mut self, code: &CodeAddress<'_>) -> Option<u32> {
        (COMPILED..COMPILED + SIZE).contains(&code.address.0).then_some(IN_MEMORY)
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn functions(&self, index: u32) -> Vec<Function> {
        assert!(self.finished, "names are only requested after finish");
        match index {
            INTERPRETED => vec![Function::named("inlined"), Function::named("interpreted")],
            _ => vec![Function::named("compiled")],
        }
    }

    fn notes(&self) -> Vec<String> {
        vec![format!("made up: {} created, {} ended", self.threads.0, self.threads.1)]
    }
}

struct Recording {
    recorder: Recorder,
    process: Arc<Process>,
    id: ThreadId,
}

/// Starts a recording of this process and pretends that it has mapped the made-up library.
fn recording() -> Recording {
    let made_up = Row {
        name: "Made-up",
        mapping: "[made-up]",
        new: || Box::new(MadeUp::default()),
        keeps_file: None,
    };
    // First, so that it takes precedence over the runtime for all compiled code.
    let rows = [&[made_up], RUNTIMES].concat();
    let mut recorder = Recorder::with_runtimes(false, 1, &rows);
    let pid = std::process::id().cast_signed();
    let process = Arc::new(Process::open(pid).expect("this process"));
    recorder.processes.add_root(process.clone());
    recorder.processes.refresh_maps(&process, monotonic_now());
    recorder.start = 0;
    let id = ThreadId { pid, tid: pid };
    for (start, path) in [(LIBRARY, &b"/nowhere/libmadeup.so"[..]), (COMPILED, b"//anon")] {
        let (len, offset, major, minor, inode) = (SIZE, 0, 0, 0, 0);
        let map = MmapEvent { start, len, offset, major, minor, inode, path };
        recorder.event(&event(id, EventKind::Mmap(map)));
    }
    Recording { recorder, process, id }
}

fn event(id: ThreadId, kind: EventKind<'_>) -> Event<'_> {
    Event { time: monotonic_now(), pid: id.pid, tid: id.tid, kind }
}

/// Registers as perf writes them, with the program counter in the compiled code.
fn registers() -> Vec<u64> {
    let [sp, pc] = if cfg!(target_arch = "x86_64") { [7, 8] } else { [31, 32] };
    let numbers = (0..u64::BITS).filter(|n| USER_REGISTERS & 1 << n != 0);
    let value = |n| match n {
        n if n == sp => SP,
        n if n == pc => COMPILED + 0x10,
        _ => 0,
    };
    numbers.map(value).collect()
}

impl Recording {
    fn look(&mut self) {
        // On the first attempt the runtime is not ready.
        self.recorder.look_for_runtimes();
        self.recorder.look_for_runtimes();
    }

    fn event(&mut self, kind: EventKind<'_>) {
        self.recorder.event(&event(self.id, kind));
    }

    /// Counts a sample and returns its key and labels.
    fn sample(&mut self) -> (CountKey, Vec<(String, String)>) {
        let registers: Vec<u8> = registers().into_iter().flat_map(u64::to_le_bytes).collect();
        let stack = u64::from(INTERPRETED).to_le_bytes();
        self.event(EventKind::Sample(Sample {
            period: 1,
            callchain: Words::default(),
            raw: &[],
            registers: Words::new(&registers),
            abi_32: false,
            stack: &stack,
            stack_full: false,
        }));
        let counts = std::mem::take(&mut self.recorder.counts).sorted();
        let [(key, _)] = counts[..] else { panic!("one stack, not {}", counts.len()) };
        (key, self.labels(key.labels))
    }

    fn labels(&self, index: u32) -> Vec<(String, String)> {
        let labels = self.recorder.labels.get(index).iter();
        labels.map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn named(&mut self) -> Named {
        targets(&self.process).name(&mut self.recorder)
    }

    /// The functions of a stack, leaf first, without the markers of broken and truncated stacks.
    fn functions(&self, named: &Named, stack: NodeIndex) -> Vec<String> {
        let frames = self.recorder.tree.stack(stack);
        let functions = frames.flat_map(|f| &named.resolved[f as usize].functions);
        let names = functions.map(|f| f.name.to_string());
        names.filter(|n| !n.starts_with("[broken") && !n.starts_with("[truncated")).collect()
    }
}

fn targets(process: &Arc<Process>) -> Targets {
    let roots = vec![process.clone()];
    let files = TargetFiles::of(&roots);
    Targets { roots, files, children: false, command_line: "test".into() }
}

fn label(value: &str) -> Vec<(String, String)> {
    vec![("request".into(), value.into())]
}

#[test]
fn runtime_frames_appear_in_samples_with_their_names() {
    let mut recording = recording();
    recording.look();
    let (key, labels) = recording.sample();
    assert_eq!(labels, label("sampled"));
    let named = recording.named();
    let functions = recording.functions(&named, key.stack);
    assert_eq!(functions, ["inlined", "interpreted", "compiled"]);

    let recorder = &recording.recorder;
    let thread = recorder.processes.named_threads()[key.thread as usize].clone();
    let sample = Valued { thread, stack: key.stack, labels: Vec::new(), values: vec![1] };
    let header = Header { kind: &GOROUTINE, period: 1, time: 0 };
    let profile = targets(&recording.process)
        .build(&header, (recorder, &named), &Stats::default(), &[sample])
        .expect("a profile");
    let files = || profile.mappings.iter().map(|m| &*m.file);
    assert_eq!(files().filter(|f| *f == "[made-up]").count(), 1, "{:?}", files());
    // The compiled code keeps its own mapping.
    assert_eq!(profile.mappings.iter().filter(|m| m.start == COMPILED).count(), 1);
}

#[test]
fn a_stopped_thread_is_read() {
    let mut recording = recording();
    recording.look();
    let words = registers();
    let registers = Registers::from_perf(Arch::host(), &words, USER_REGISTERS);
    let Recording { recorder, process, id } = &mut recording;
    assert!(recorder.runtimes.read_threads_of(id.pid, None));
    assert!(!recorder.runtimes.need_thread_pointers_of(id.pid));
    let memory = process.memory().expect("own memory");
    let (tid, sp, thread_pointer) = (id.tid, Avma(SP), None);
    let thread = OffCpuThread { process, memory: &memory, tid, sp, thread_pointer };
    let standing = recorder.runtimes.read(&thread);
    let bytes = u64::from(INTERPRETED).to_le_bytes();
    let copy = Copied { registers: &registers, bytes: &bytes, standing: Some(&standing) };
    let (stack, labels) = recorder.copied_stack(id.pid, &copy);
    assert_eq!(recording.labels(labels), label("read"));
    let named = recording.named();
    assert_eq!(recording.functions(&named, stack), ["inlined", "interpreted", "compiled"]);
}

#[test]
fn a_runtime_is_notified_of_threads_until_exec() {
    let mut recording = recording();
    recording.look();
    let (pid, parent_tid) = (recording.id.pid, recording.id.tid);
    let thread = Fork { pid, tid: i32::MAX, parent_pid: pid, parent_tid };
    recording.event(EventKind::Fork(thread));
    recording.event(EventKind::Exit(thread));
    recording.event(EventKind::Comm(Comm { exec: true, name: b"other" }));
    // This thread belongs to the other program.
    recording.event(EventKind::Fork(thread));
    let notes = recording.recorder.runtime_notes();
    assert!(notes.contains(&"made up: 1 created, 1 ended".into()), "{notes:?}");
    recording.look();
    let (key, labels) = recording.sample();
    assert_eq!(labels, []);
    let named = recording.named();
    let functions = recording.functions(&named, key.stack);
    assert!(!functions.contains(&"interpreted".into()), "{functions:?}");
}

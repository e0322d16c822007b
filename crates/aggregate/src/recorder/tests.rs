use events::{Comm, Fork, Words};
use process::Process;

use super::*;
use crate::ids::Count;
use crate::runtimes::{Presence, Runtime};

/// Is in no process.
struct Absent;

impl Runtime for Absent {
    fn attach(&mut self, _pid: i32, _tracked: &Tracked) -> Presence {
        Presence::Absent
    }

    fn detach(&mut self, _pid: i32) {}

    fn functions(&self, _index: u32) -> Vec<crate::ids::Function> {
        Vec::new()
    }

    fn notes(&self) -> Vec<String> {
        vec!["absent".into()]
    }
}

const PERIOD: u64 = 1000;

/// A recorder that follows this process.
fn recorder() -> (Recorder, ThreadId) {
    let new = || Box::new(Absent) as Box<dyn Runtime>;
    let row = Row { name: "Absent", mapping: "[absent]", new, keeps_file: None };
    let mut recorder = Recorder::with_runtimes(true, PERIOD, &[row]);
    let process = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
    recorder.processes.add_root(process.clone());
    (recorder, ThreadId { pid: process.pid(), tid: process.pid() })
}

fn event(id: ThreadId, time: u64, kind: EventKind<'_>) -> Event<'_> {
    Event { time, pid: id.pid, tid: id.tid, kind }
}

/// A sample of a thread without a user stack.
fn sample(period: u64, callchain: &[u8]) -> Sample<'_> {
    Sample {
        period,
        callchain: Words::new(callchain),
        raw: &[],
        registers: Words::default(),
        abi_32: false,
        stack: &[],
        stack_full: false,
    }
}

#[test]
fn samples_are_weighted_by_their_period_or_the_common_one() {
    let (mut recorder, id) = recorder();
    recorder.start = 10;
    for (time, period) in [(9, 1), (10, 0), (11, 5)] {
        recorder.event(&event(id, time, EventKind::Sample(sample(period, &[]))));
    }
    let other = ThreadId { pid: 2_000_000_000, tid: 1 };
    recorder.event(&event(other, 12, EventKind::Sample(sample(1, &[]))));
    let counts = std::mem::take(&mut recorder.counts).sorted();
    let [(key, count)] = counts[..] else { panic!("one context, not {}", counts.len()) };
    assert_eq!(count, Count { samples: 2, weight: PERIOD + 5 });
    assert_eq!((recorder.stats.kept, recorder.stats.no_user_stack), (2, 2));
    let frame = recorder.tree.frame_of(key.stack).expect("a marker");
    assert_eq!(frame, FrameKey { place: Place::Marker, address: Avma(0) });
    assert_eq!(recorder.markers, ["[no user stack]"]);
}

#[test]
fn stacks_of_32_bit_code_are_broken() {
    let (mut recorder, id) = recorder();
    recorder.start = 0;
    let words = [0; 8];
    let of_32 = Sample { abi_32: true, registers: Words::new(&words), ..sample(1, &[]) };
    recorder.event(&event(id, 1, EventKind::Sample(of_32)));
    recorder.event(&event(id, 1, EventKind::Sample(of_32)));
    assert_eq!(recorder.markers, ["[broken stack: 32-bit code]"]);
    assert_eq!(recorder.stats.broken_total(), 2);
    assert_eq!(recorder.stats.broken["32-bit code"], 2);
}

#[test]
fn kernel_frames_are_calls_below_the_user_stack() {
    let (mut recorder, _) = recorder();
    let user = recorder.marker(ROOT, "user".into());
    // A marker of the kernel's, the instruction pointer, two return addresses.
    let chain = [-128i64 as u64, 0x100, 0x200, 0x300];
    let leaf = recorder.kernel_stack(user, chain.into_iter());
    let frames: Vec<_> = recorder.tree.path_from_root(leaf)[1..]
        .iter()
        .map(|node| recorder.tree.frame_of(*node).map(|f| (f.place, f.address.0)))
        .collect();
    assert_eq!(frames, [0x2ff, 0x1ff, 0x100].map(|at| Some((Place::Kernel, at))));
    assert_eq!(recorder.tree.path_from_root(leaf)[0], user);
}

#[test]
fn markers_with_the_same_name_are_one_frame() {
    let (mut recorder, _) = recorder();
    let [a, b, again] = ["a", "b", "a"].map(|name| recorder.marker(ROOT, name.into()));
    assert!(a == again && a != b);
    assert_eq!(recorder.markers, ["a", "b"]);
}

#[test]
fn the_window_is_too_small_if_one_in_a_hundred_stacks_exceeds_it() {
    let (mut recorder, _) = recorder();
    let mut too_small = |samples, too_deep| {
        recorder.recent = Recent { samples, too_deep };
        let too_small = recorder.window_is_too_small();
        (too_small, recorder.recent.samples)
    };
    assert_eq!(too_small(49, 2), (false, 49), "too few samples to tell");
    assert_eq!(too_small(3, 3), (true, 0));
    assert_eq!(too_small(50, 0), (false, 0));
    assert_eq!(too_small(99, 1), (true, 0));
    assert_eq!(too_small(100, 1), (false, 0));
}

#[test]
fn threads_are_covered_by_their_own_or_inherited_events() {
    let (mut recorder, id) = recorder();
    let [soon, late] = [2_000_000_001, 2_000_000_002];
    recorder.processes.add_thread(id.pid, id.tid, 0);
    assert!(!recorder.covers(id.pid, id.tid));
    recorder.attached(id.tid, 100);
    assert!(recorder.covers(id.pid, id.tid) && !recorder.covers(id.pid, late));
    recorder.attached(late, 200);
    for (tid, time) in [(soon, 100 + ATTACH_MARGIN_NS), (late, 101 + ATTACH_MARGIN_NS)] {
        let fork = Fork { pid: id.pid, tid, parent_pid: id.pid, parent_tid: id.tid };
        recorder.event(&event(id, time, EventKind::Fork(fork)));
    }
    assert!(!recorder.covers(id.pid, soon), "its creator's events may have come too late");
    assert!(recorder.covers(id.pid, late));
    assert_eq!(recorder.doubled, [late], "it has its own and inherited ones");
    recorder.reattach();
    assert!(!recorder.covers(id.pid, id.tid));
}

#[test]
fn events_rename_and_end_threads() {
    let (mut recorder, id) = recorder();
    let comm = Comm { exec: false, name: b"renamed" };
    recorder.event(&event(id, 1, EventKind::Comm(comm)));
    let thread = recorder.processes.sampled(id.pid, id.tid).expect("followed");
    assert_eq!(&*recorder.processes.named_threads()[thread as usize].name, "renamed");
    let exit = Fork { pid: id.pid, tid: id.tid, parent_pid: id.pid, parent_tid: id.tid };
    recorder.event(&event(id, 2, EventKind::Exit(exit)));
    assert!(recorder.processes.get(id.pid).expect("followed").threads[&id.tid].ended);
}

#[test]
fn notes_of_runtimes_are_passed_on() {
    assert_eq!(recorder().0.runtime_notes(), ["absent"]);
}

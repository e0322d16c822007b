//! Unwinds real programs stopped by gdb and compares with gdb's own backtrace: the program counters
//! of all frames must be equal, up to the outermost one.

mod common;

use common::{Recording, Stop, build, build_with, record};
use unwind::{BreakReason, End, Frame, FrameKind, Unwinder};

fn unwind(unwinder: &mut Unwinder, recording: &Recording, stop: &Stop) -> (Vec<Frame>, End) {
    let mut frames = Vec::new();
    let end = unwinder.unwind(&recording.space, &stop.registers, &stop.memory, &mut frames);
    (frames, end)
}

/// Compares our frames with gdb's at every stop.
fn assert_same_as_gdb(recording: &Recording, at_least: usize) {
    assert!(recording.stops.len() >= at_least, "only {} stops", recording.stops.len());
    let mut unwinder = Unwinder::new(image::Arch::X86_64);
    let mut wrong = Vec::new();
    for (i, stop) in recording.stops.iter().enumerate() {
        assert!(stop.complete, "stop {i}: gdb gave up: {:x?}", stop.pcs);
        let (frames, end) = unwind(&mut unwinder, recording, stop);
        let pcs: Vec<u64> = frames.iter().map(|f| f.pc.0).collect();
        if pcs != stop.pcs || !end.is_root() {
            wrong.push(format!("stop {i}: {end}\n  ours {pcs:x?}\n  gdb  {:x?}", stop.pcs));
        }
    }
    let shown = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} stops:\n{shown}", wrong.len(), recording.stops.len());
}

/// Compares with framehop, an independent unwinder that checks gdb, too. It must agree at
/// `at_least` stops. It cannot agree at all of them, because it does not support realigned stacks
/// and treats some interrupted program counters as return addresses.
fn assert_framehop_agrees(recording: &Recording, at_least: usize) {
    let mut oracle = common::oracle::Framehop::new(recording);
    let mut unwinder = Unwinder::new(image::Arch::X86_64);
    let mut agrees = |stop: &Stop| {
        let ours = unwind(&mut unwinder, recording, stop).0;
        oracle.frames(stop).into_iter().eq(ours.iter().map(|f| f.pc.0))
    };
    let agreed = recording.stops.iter().filter(|stop| agrees(stop)).count();
    assert!(
        agreed >= at_least,
        "framehop agrees at only {agreed} of {} stops",
        recording.stops.len()
    );
}

const STEP_FROM_START: &str = "
recorder.run_to('start')
recorder.header()
recorder.step(1500)
";

#[test]
fn every_instruction_of_a_pie() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "steps.c", &["-fpie", "-pie", "-Wl,-z,lazy"]);
    let recording = record(dir.path(), &program, STEP_FROM_START);
    assert_same_as_gdb(&recording, 1500);
}

#[test]
fn every_instruction_of_a_static_executable() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "steps.c", &["-static", "-no-pie"]);
    let recording = record(dir.path(), &program, STEP_FROM_START);
    assert_same_as_gdb(&recording, 1500);
    assert_framehop_agrees(&recording, 1200);
}

#[test]
fn every_instruction_of_a_static_pie_with_ibt_plt() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "steps.c", &["-static-pie", "-fcf-protection=full"]);
    assert_same_as_gdb(&record(dir.path(), &program, STEP_FROM_START), 1500);
}

#[test]
fn signal_handlers_on_both_stacks_and_at_a_functions_first_instruction() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "signals.c", &[]);
    let script = "
gdb.execute('handle SIGUSR1 SIGUSR2 nostop noprint pass', to_string=True)
recorder.run_to('*victim')
recorder.header()
recorder.stop()
gdb.execute('tbreak on_usr1', to_string=True)
gdb.execute('signal SIGUSR1', to_string=True)
recorder.step(60)
recorder.run_to('in_handler')
recorder.step(60)
";
    let recording = record(dir.path(), &program, script);
    assert_same_as_gdb(&recording, 121);
    let mut unwinder = Unwinder::new(image::Arch::X86_64);
    let frames = unwind(&mut unwinder, &recording, &recording.stops[1]).0;
    let kinds: Vec<FrameKind> = frames.iter().take(4).map(|f| f.kind).collect();
    use FrameKind::{Interrupted, Leaf, Return};
    assert_eq!(kinds, [Leaf, Return, Interrupted, Return]);
    assert_eq!(frames[2].pc.0, recording.stops[0].pcs[0], "interrupted at victim's first byte");
    assert_eq!(frames[2].lookup_address(), frames[2].pc);
}

#[test]
fn a_call_through_a_null_pointer() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "signals.c", &[]);
    let script = "
gdb.execute('set args x', to_string=True)
gdb.execute('handle SIGUSR1 SIGUSR2 nostop noprint pass', to_string=True)
recorder.run_to('calls_null')
recorder.header()
for _ in range(8):
    if gdb.newest_frame().pc() == 0: break
    gdb.execute('stepi', to_string=True)
assert gdb.newest_frame().pc() == 0
recorder.stop()
";
    assert_same_as_gdb(&record(dir.path(), &program, script), 1);
}

#[test]
fn a_coroutine_and_a_threads_start_through_the_gap_in_clone3() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "threads.c", &["-static"]);
    // No unwind information covers the system call itself. The callers there are the same as at the
    // function's first instruction.
    let script = "
recorder.run_to('in_coroutine')
recorder.header()
recorder.step(7, outermost=int(gdb.parse_and_eval('(long)&__start_context')))
recorder.run_to('*__clone3')
callers = recorder.stop()
gdb.execute('set scheduler-locking on', to_string=True)
while gdb.execute('x/i $pc', to_string=True).split()[-1] != 'ret':
    gdb.execute('stepi', to_string=True)
    recorder.stop(callers)
";
    assert_same_as_gdb(&record(dir.path(), &program, script), 18);
    let script = "
recorder.run_to('in_thread')
recorder.header()
gdb.execute('set scheduler-locking on', to_string=True)
recorder.step(30)
";
    assert_same_as_gdb(&record(dir.path(), &program, script), 30);
}

#[test]
fn inside_the_unwinder_of_cxx_exceptions() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "throws.cc", &["-Wl,-z,now"]);
    let script = "
gdb.execute('set environment LD_BIND_NOW 1', to_string=True)
recorder.run_to('throws')
recorder.header()
gdb.execute('tbreak _Unwind_RaiseException', to_string=True)
gdb.execute('continue', to_string=True)
recorder.step(1200)
";
    let recording = record(dir.path(), &program, script);
    assert_same_as_gdb(&recording, 1200);
    assert_framehop_agrees(&recording, 1000);
}

#[test]
fn assembly_with_registers_that_no_compiler_uses() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "byhand.S", &[]);
    let script = "
recorder.run_to('*by_rbx')
recorder.header()
for _ in range(70):
    if gdb.newest_frame().name() == 'bare_with_frame': break
    recorder.stop()
    gdb.execute('stepi', to_string=True)
recorder.run_to('*bottom')
recorder.stop()
";
    let recording = record(dir.path(), &program, script);
    assert_same_as_gdb(&recording, 45);
    // framehop fails here, which is why exoprof does not use it.
    let mut oracle = common::oracle::Framehop::new(&recording);
    let mut wrong = |stop: &Stop| oracle.frames(stop) != stop.pcs;
    assert!(recording.stops.iter().filter(|stop| wrong(stop)).count() > 10);
}

/// musl has no unwind tables, and gdb cannot unwind it either, so the expected frames are the calls
/// that were stepped through. The last frame is the caller of `main` or of the thread's function.
///
/// Three instructions of `printf_core` cannot be unwound: those between loading the address of a
/// `switch`'s jump table and the jump itself, which is on all paths. There the stack ends as
/// broken.
#[test]
fn every_instruction_of_musl() {
    for flags in [&["-static"][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let program = build_with("musl-gcc", dir.path(), "musl.c", flags);
        for (start, steps) in [("main", 6000), ("in_thread", 2800)] {
            let script = format!(
                "
recorder.run_to('*{start}')
recorder.header()
gdb.execute('set scheduler-locking on', to_string=True)
recorder.step_calls({steps})
"
            );
            let recording = record(dir.path(), &program, &script);
            assert_eq!(recording.stops.len(), steps);
            let mut unwinder = Unwinder::new(image::Arch::X86_64);
            let mut broken = 0;
            for (i, stop) in recording.stops.iter().enumerate() {
                let (frames, end) = unwind(&mut unwinder, &recording, stop);
                let pcs: Vec<u64> = frames.iter().map(|f| f.pc.0).collect();
                if end == End::Broken(BreakReason::NoUnwindInfo) && pcs == stop.pcs[..1] {
                    broken += 1;
                } else {
                    assert!(end.is_root(), "stop {i}: {end} of {pcs:x?}");
                    assert_eq!(pcs, stop.pcs, "stop {i}: {pcs:x?}, not {:x?}", stop.pcs);
                }
            }
            assert!(broken * 200 < steps, "{broken} of {steps} from {start}");
        }
    }
}

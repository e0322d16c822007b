//! Tests that Python functions replace the frames of CPython's evaluation loop, in every installed
//! version.

use std::process::Command;

use exoprof_tests::chance::Rule;
use exoprof_tests::expect::{assert_reach, assert_roots, assert_shares};
use exoprof_tests::gotarget::{Build, LAST, build};
use exoprof_tests::python::{Interpreter, in_python, interpreters, last_name};
use exoprof_tests::{Profile, Recorder, Sample, Target, Truth, record_busy};
use nix::sys::signal::Signal;

const SCRIPT: &str = "pyshares.py";
const SITES: &[(&str, &str)] = &[
    ("heavy_a", "heavy_a"),
    ("heavy_b", "heavy_b"),
    ("heavy_c", "heavy_c"),
    ("heavy_sort", "heavy_sort"),
];

/// As `expect::SHARES`, but a site's slices are of different lengths, and the program's clock is read
/// by slow functions.
const RULE: Rule = Rule { tolerance: 1.5, fault: 4.0, rounds: 8 };

fn recorded(python: &Interpreter, args: &[&str], hertz: &str) -> (Profile, Truth) {
    let mut target = python.start(SCRIPT, args);
    let before = target.mark();
    let recording = record_busy(target.pid(), 3.0, &["-F", hertz]);
    let truth = target.mark().since(&before);
    let _ = target.finish();
    (recording.profile.clone(), truth)
}

/// Rounds take some 20 ms, so each has a slice of some 5 samples at each of the sites.
#[test]
fn every_version() {
    for python in interpreters() {
        let name = python.to_string();
        let profile = assert_shares(RULE, SITES, || recorded(&python, &[], "997"));
        assert_roots(&profile, 0.99);
        // At its start the loop has not linked its frame yet, and at its end it has already
        // unlinked it; this is most frequent in `by_key`, which does almost nothing.
        assert_reach(&profile, 0.95, &format!("Python frames only ({name})"), |s| {
            s.stack.iter().all(|f| !f.function.starts_with("_PyEval_EvalFrameDefault"))
        });
        assert_reach(&profile, 0.99, &format!("the frames of Python ({name})"), |s| {
            let names: Vec<_> = in_python(s).map(last_name).collect();
            let outer = names.iter().rev().take(3).rev().copied().collect::<Vec<_>>();
            let at = names.iter().position(|n| n.starts_with("heavy_"));
            let right_callees = match at.map(|i| (names[i], &names[..i])) {
                Some(("heavy_a" | "heavy_b", callees)) => matches!(callees, [] | ["leaf"]),
                Some(("heavy_c", callees)) => callees.is_empty(),
                Some(("heavy_sort", callees)) => {
                    matches!(callees, [] | ["run"] | ["by_key", "run"])
                }
                _ => true,
            };
            right_callees && outer.ends_with(&["work", "main", "<module>"])
        });
        let frames = || profile.samples.iter().flat_map(in_python);
        let leaf = frames().find(|f| f.is("leaf")).expect("leaf");
        assert!(leaf.file.ends_with("pyshares.py") && leaf.start_line == 17, "{leaf:?}");
        let off = frames().filter(|f| f.is("leaf")).find(|f| !(17..=21).contains(&f.line));
        assert!(off.is_none(), "{name}: {off:?}");
        // Native frames are in between: the key function is called by list.sort.
        let at = |s: &Sample, n: &str| s.stack.iter().position(|f| last_name(f) == n);
        let in_key = |s: &Sample| at(s, "by_key").is_some();
        let between = |s: &Sample| at(s, "run") > at(s, "by_key").map(|i| i + 1);
        let (all, right) =
            (profile.sum("samples", in_key), profile.sum("samples", |s| in_key(s) && between(s)));
        let wrong = profile.describe(4, |s| in_key(s) && !between(s));
        assert!(all > 20 && right * 100 >= all * 99, "{name}: {right} of {all}:\n{wrong}");
    }
}

/// Each thread has its own frames, whichever holds the GIL.
#[test]
fn threads() {
    for python in interpreters().iter().take(1) {
        let profile = assert_shares(RULE, SITES, || recorded(python, &["4"], "997"));
        assert!(profile.by_label("samples", "thread_id").len() >= 4);
        assert_reach(&profile, 0.97, "work", |s| in_python(s).any(|f| last_name(f) == "work"));
    }
}

/// A program that starts during the recording and ends.
#[test]
fn from_exec_to_exit() {
    let script = "def burn():\n  for i in range(60000000): pass\nburn()\n";
    let recording = Recorder::new()
        .args(["-d", "10m", "-F", "997"])
        .command(&["/usr/bin/python3", "-c", script])
        .run()
        .recording();
    // Samples from before the interpreter is recognized have native frames only.
    assert_reach(&recording.profile, 0.8, "burn", |s| s.has("burn"));
}

/// A perf event runs only one BPF program: the one for Go passes samples on to the one for Python,
/// also if the Go program starts when Python's is already attached.
#[test]
fn together_with_go() {
    let program = build(LAST, "cpu", Build::Plain);
    for late in [false, true] {
        let python = interpreters()[0].start(SCRIPT, &[]);
        let wait = if late { "echo ready; read line; " } else { "" };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{wait}exec {} labels", program.display())]);
        shell.env("GOMAXPROCS", "1");
        let mut go = Target::spawn_command(shell);
        if !late {
            go.go(0);
        }
        let pids = [python.pid().to_string(), go.pid().to_string()];
        let args = ["-p", &pids[0], "-p", &pids[1], "-d", "10m", "-F", "997"];
        let mut running = Recorder::new().args(args).start();
        running.wait_recording();
        if late {
            go.send("");
            go.expect("ready");
            go.go(0);
        }
        for pid in [go.pid(), python.pid()] {
            running.wait_used(pid, 1.0);
        }
        running.signal(Signal::SIGINT);
        let profile = running.finish().recording().profile;
        let share = |of: &dyn Fn(&Sample) -> bool, right: &dyn Fn(&Sample) -> bool| {
            let all = profile.sum("samples", of);
            assert!(all > 100, "{all}: {}", profile.describe(8, |_| true));
            profile.sum("samples", |s| of(s) && right(s)) as f64 / all as f64
        };
        let heavy = |s: &Sample| in_python(s).any(|f| last_name(f).starts_with("heavy_"));
        let named = share(&|s| s.label("pid") == pids[0], &heavy);
        assert!(named > 0.95, "late {late}: {named}: {}", profile.describe(8, |s| !heavy(s)));
        // A program that has just started, and each of its first threads, has no labels for some 20
        // ms of two seconds; for longer on a busy machine.
        let labelled = |s: &Sample| s.label("request") == "long";
        let labels = share(&|s| s.has("main.long"), &labelled);
        assert!(labels > if late { 0.8 } else { 0.95 }, "late {late}: {labels}");
        let comments = profile.comments.join("\n");
        assert!(!comments.contains("no Python frames"), "{comments}");
        assert!(!comments.contains("no goroutine labels"), "{comments}");
    }
}

/// Python frames of stopped and sleeping threads are read without BPF: in wall and ptrace
/// recordings and in dumps.
#[test]
fn stopped_and_sleeping_threads() {
    for python in interpreters() {
        let name = python.to_string();
        let target = python.start(SCRIPT, &[]);
        let recorded = |args: &[&str]| {
            let recorder = Recorder::of(target.pid()).args(args).args(["-d", "2s", "-F", "199"]);
            recorder.run().recording().profile
        };
        let frame = |s: &Sample, name: &str| in_python(s).any(|f| last_name(f) == name);
        let wall = recorded(&["wall"]);
        // Of two threads, one works and one waits for commands; each has half of the time.
        for function in ["work", "obey"] {
            let share = wall.sum("wall", |s| frame(s, function)) as f64 / wall.total("wall") as f64;
            assert!((0.45..0.55).contains(&share), "{name}: {function} {share}");
        }
        let waits = |s: &Sample| frame(s, "obey") && s.label("state") == "sleeping";
        assert!(wall.sum("samples", waits) > 0, "{}", wall.describe(4, |_| true));
        let cpu = record_busy(target.pid(), 1.5, &["--backend", "ptrace", "-F", "199"]).profile;
        // A preempted thread is mostly found where it reads its own CPU clock: that lets the
        // scheduler notice that its time slice is over. How often does not matter for the stacks.
        assert_reach(&cpu, 0.95, &format!("the frames of Python ({name})"), |s| {
            let names: Vec<_> = in_python(s).map(last_name).collect();
            names.ends_with(&["work", "main", "<module>"])
        });
        let site = |s: &Sample| in_python(s).any(|f| last_name(f).starts_with("heavy_"));
        assert!(cpu.sum("samples", site) > 20, "{name}: {}", cpu.describe(4, |_| true));
        let pid = target.pid().to_string();
        let dump = exoprof_tests::exoprof().args(["dump", "-p", &pid]).output().unwrap();
        let text = String::from_utf8_lossy(&dump.stdout);
        let at = text.find("obey(...)\n").unwrap_or_else(|| panic!("{name}:\n{text}"));
        assert!(text[at..].lines().nth(1).unwrap().contains("pyshares.py:7"), "{name}:\n{text}");
        let _ = target.finish();
    }
}

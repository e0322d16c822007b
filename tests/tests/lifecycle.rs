//! Tests of processes that fork, exec, exit or are killed, and of exoprof being interrupted: what
//! was recorded is written, complete and symbolized.

use std::process::{Command, Stdio};

use exoprof_tests::expect::{assert_close, assert_roots, assert_site_shares};
use exoprof_tests::procfs::State;
use exoprof_tests::programs;
use exoprof_tests::{Outcome, Recorder, Recording, Target, record_busy};
use nix::sys::signal::Signal;

#[test]
fn children_grandchildren_and_exec() {
    let shares = programs::SHARES.path();
    let mut target = Target::spawn(programs::FORK, &[shares.to_str().unwrap()]);
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    target.go(1000);
    target.wait_done();
    running.signal(Signal::SIGINT);
    let recording = running.finish().recording();
    let truth = target.finish();
    let profile = &recording.profile;
    // Children's totals are weighted like threads'. What they use between the last reading and
    // their end, and in fork and exec themselves, is some ms of 500, hence 5%.
    for site in ["parent_burn", "child_burn", "grandchild_burn"] {
        let cpu = profile.sum("cpu", |s| s.has(site)) as f64;
        assert_close(site, cpu, truth.ns(site) as f64, 0.05);
    }
    let execed = |s: &exoprof_tests::Sample| {
        s.stack.iter().any(|f| ["heavy_a", "heavy_b", "heavy_c", "heavy_d"].iter().any(|n| f.is(n)))
    };
    assert_close("exec", profile.sum("cpu", execed) as f64, truth.ns("shares") as f64, 0.05);
    let processes = profile.by_label("cpu", "pid");
    assert_eq!(processes.len(), 4, "{processes:?}");
    let names = profile.by_label("cpu", "process");
    assert!(names.contains_key("fork") && names.contains_key("shares"), "{names:?}");
    assert_roots(profile, 0.99);
}

#[test]
fn children_are_left_out_with_no_children() {
    let shares = programs::SHARES.path();
    let mut target = Target::spawn(programs::FORK, &[shares.to_str().unwrap()]);
    let mut running =
        Recorder::of(target.pid()).args(["-d", "10m", "-F", "997", "--no-children"]).start();
    running.wait_recording();
    target.go(500);
    target.wait_done();
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    assert!(profile.sum("cpu", |s| s.has("parent_burn")) > 0);
    for site in ["child_burn", "grandchild_burn", "heavy_a"] {
        assert_eq!(profile.sum("cpu", |s| s.has(site)), 0, "{site}");
    }
}

/// A followed child ends, and a program unrelated to the target gets its PID.
#[test]
fn reused_pid_of_a_child() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo ready pid=$$; while read x; do true & echo child $!; wait; done"]);
    let mut target = Target::spawn_command(shell);
    // As root and at this rate, whole CPUs are sampled, so the unrelated program's samples are seen
    // too.
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    target.send("");
    let line = target.expect("child ");
    let pid: u32 = line.strip_prefix("child ").unwrap().parse().unwrap();
    target.send("");
    // The second child is forked only after the first was reaped: the first PID is free.
    target.expect("child ");
    let burns = || {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut command = Command::new(programs::SHARES.path());
        command.args(["--burn", "300"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let reused = child.id() == pid;
        assert!(child.wait().unwrap().success());
        reused
    };
    // Another process may take the PID first.
    assert!((0..20).any(|_| burns()), "PID {pid} was never reused");
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    assert!(profile.by_label("samples", "process").contains_key("sh"));
    let strangers = |s: &exoprof_tests::Sample| {
        s.label("process") == "shares" || s.stack.iter().any(|f| f.function.starts_with("heavy_"))
    };
    assert_eq!(profile.sum("samples", strangers), 0, "{}", profile.describe(5, strangers));
}

#[test]
fn exec_into_another_program() {
    let shares = programs::SHARES.path();
    let mut target = Target::spawn(programs::EXEC, &[shares.to_str().unwrap()]);
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    target.go(1000);
    target.wait_done();
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    // Each program burns 1000 ms; 4% covers exec itself, calibration and the reading at the exec.
    let before = profile.sum("cpu", |s| s.has("before_exec")) as f64;
    assert_close("before the exec", before, 1e9, 0.04);
    let after = profile.sum("cpu", |s| s.stack.iter().any(|f| f.function.starts_with("heavy_")));
    assert_close("after the exec", after as f64, 1e9, 0.04);
    assert_roots(&profile, 0.99);
    // No stack contains functions of both programs.
    let mixed = profile.sum("samples", |s| {
        s.has("before_exec") && s.stack.iter().any(|f| f.function.starts_with("heavy_"))
    });
    assert_eq!(mixed, 0);
    let _ = target.finish();
}

#[test]
fn plugins_loaded_in_turn() {
    let [alpha, beta] = [programs::PLUGIN_ALPHA.path(), programs::PLUGIN_BETA.path()];
    let args = [alpha.to_str().unwrap(), beta.to_str().unwrap()];
    let mut target = Target::working(programs::DLOPEN, &args);
    // Plugins are loaded and unloaded some 50 times a second; their shares are 2:1.
    let profile = assert_site_shares(&["alpha_work", "beta_work"], || {
        let before = target.mark();
        let recording = record_busy(target.pid(), 3.0, &["-F", "997"]);
        let mut truth = target.mark().since(&before);
        let reused = truth.0.remove("same").unwrap();
        assert!(reused > 10, "the loader did not reuse addresses: {reused}");
        (recording.profile.clone(), truth)
    });
    assert_roots(&profile, 0.99);
    for sample in &profile.samples {
        for frame in &sample.stack {
            let file = frame.mapping.as_ref().map_or("", |m| m.file.as_str());
            assert!(!frame.is("alpha_work") || file.ends_with("alpha.so"), "{sample}");
            assert!(!frame.is("beta_work") || file.ends_with("beta.so"), "{sample}");
        }
    }
    let _ = target.finish();
}

/// Checks a recording that ended early: it is complete and symbolized, and left no other file.
#[track_caller]
fn check_early_end(outcome: Outcome, ms: f64) -> Recording {
    let recording = outcome.recording();
    assert_eq!(recording.files(), ["profile.pb.gz"]);
    assert_close("CPU", recording.profile.total("cpu") as f64, ms * 1e6, 0.04);
    assert_roots(&recording.profile, 0.99);
    let named = recording.profile.sum("cpu", |s| s.has("heavy_a"));
    assert!(named > 0, "not symbolized:\n{}", recording.profile.describe(4, |_| true));
    let lines = recording.profile.samples.iter().flat_map(|s| &s.stack);
    assert!(lines.clone().any(|f| f.is("heavy_a") && f.line > 0 && f.file.ends_with("shares.c")));
    recording
}

#[track_caller]
fn check_ends_on_signal(signal: Signal) {
    let mut target = Target::spawn(programs::SHARES, &[]);
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    target.go(1000);
    target.wait_done();
    running.signal(signal);
    let _ = check_early_end(running.finish(), 1000.0);
    assert!(State::of(target.pid()).is_free());
    let _ = target.finish();
}

#[test]
fn ends_on_ctrl_c() {
    check_ends_on_signal(Signal::SIGINT);
}

#[test]
fn ends_on_sigterm() {
    check_ends_on_signal(Signal::SIGTERM);
}

/// The target exits while it is recorded: symbols come from files that were opened before.
#[test]
fn target_exits() {
    let mut target = Target::spawn(programs::SHARES, &[]);
    let running = {
        let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
        running.wait_recording();
        running
    };
    target.go(1000);
    target.wait_done();
    // The target was reaped: nothing of /proc/PID is left.
    let _ = target.finish();
    let _ = check_early_end(running.finish(), 1000.0);
}

/// As above, but its executable is deleted too, as by an upgrade during the recording.
#[test]
fn target_exits_and_its_file_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("shares");
    std::fs::copy(programs::SHARES.path(), &copy).unwrap();
    let mut target = Target::spawn_command(std::process::Command::new(&copy));
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    std::fs::remove_file(&copy).unwrap();
    target.go(1000);
    target.wait_done();
    let _ = target.finish();
    let recording = check_early_end(running.finish(), 1000.0);
    let main = &recording.profile.mappings[0];
    assert!(!main.file.ends_with(" (deleted)"), "{main:?}");
}

/// A killed target also leaves a profile.
#[test]
fn target_is_killed() {
    let mut target = Target::spawn(programs::SHARES, &[]);
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    target.go(1000);
    target.wait_done();
    target.kill();
    target.wait();
    let _ = check_early_end(running.finish(), 1000.0);
}

#[test]
fn killed_exoprof_leaves_no_files() {
    let mut target = Target::working(programs::SHARES, &[]);
    let before = State::of(target.pid());
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    running.signal(Signal::SIGKILL);
    let outcome = running.finish();
    assert_eq!(outcome.files(), Vec::<String>::new(), "half-written files");
    assert_eq!(State::of(target.pid()), before);
    // The target still works: its CPU time grows.
    let mark = target.mark();
    while target.mark().since(&mark).total() == 0 {}
    let _ = target.finish();
}

#[test]
fn command_is_started_and_recorded() {
    let shares = programs::SHARES.path();
    let outcome = Recorder::new()
        .args(["-d", "10m", "-F", "997"])
        .command(&[shares.to_str().unwrap(), "--burn", "1000"])
        .run();
    let recording = check_early_end(outcome, 1000.0 + 30.0);
    assert!(recording.profile.total("samples") > 100);
}

/// Types that are recorded at the end, or attach late, miss a target that exits. `record all` says so,
/// and keeps the others.
#[test]
fn record_all_goes_on_if_the_target_exits() {
    let mut recorded = 0;
    for milliseconds in (40..=160).step_by(20) {
        // Many threads take long to stop.
        let script = format!(
            "import os, threading, time\n\
             work = lambda: [time.sleep(0.001) for _ in iter(int, 1)]\n\
             [threading.Thread(target=work).start() for _ in range(30)]\n\
             print('ready', flush=True)\ntime.sleep({milliseconds} / 1000)\nos._exit(0)"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]);
        let target = Target::spawn_command(command);
        let folder = tempfile::tempdir().unwrap();
        let output = exoprof_tests::exoprof()
            .args(["record", "all", "-d", "1s", "-p", &target.pid().to_string(), "-o"])
            .arg(folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("seccomp"), "{stderr}");
        if output.status.success() {
            recorded += 1;
            assert!(folder.path().read_dir().unwrap().count() >= 3, "{stderr}");
            assert!(!stderr.lines().any(|l| l.starts_with("error: ")), "{stderr}");
        } else {
            // It had exited before exoprof opened it, or attached to it.
            assert!(stderr.contains("zombie") || stderr.contains("exited"), "{stderr}");
            assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{stderr}");
        }
    }
    assert!(recorded > 0, "the target always exited too early");
}

//! Tests of children forked during a wall or ptrace recording: no events report them there, but
//! they must be found.

use std::process::{Command, Stdio};

use exoprof_tests::expect::assert_close;
use exoprof_tests::server::{open_folder, postgres};
use exoprof_tests::{Profile, Recorder, Recording, Sample, Target, programs};
use nix::sys::signal::Signal;

/// Allowed difference in a process's recorded lifetime. The time between its start and the tick
/// that finds it is overestimated as often as underestimated; delays on a busy machine add to that.
const TOLERANCE: f64 = 0.08;

fn offspring() -> Target {
    let shares = programs::SHARES.path();
    Target::spawn(programs::OFFSPRING, &[shares.to_str().unwrap()])
}

/// Records one round of work.
fn recorded(target: &mut Target, args: &[&str]) -> Recording {
    let mut running = Recorder::of(target.pid()).args(args).args(["-d", "10m"]).start();
    running.wait_waiting();
    target.go(3000);
    target.wait_done();
    running.signal(Signal::SIGINT);
    running.finish().recording()
}

fn heavy(s: &Sample) -> bool {
    s.stack.iter().any(|f| f.function.starts_with("heavy_"))
}

fn says(profile: &Profile, what: &str) -> bool {
    profile.comments.iter().any(|c| c.contains(what))
}

#[test]
fn children_grandchildren_and_exec_by_the_wall_clock() {
    let mut target = offspring();
    let recording = recorded(&mut target, &["wall"]);
    let truth = target.finish();
    let profile = &recording.profile;
    for site in ["child_sleeps", "child_waits", "grandchild_sleeps", "grandchild_burns"] {
        let wall = profile.sum("wall", |s| s.has(site) && s.label("process") == "offspring");
        assert_close(site, wall as f64, truth.ns(site) as f64, TOLERANCE);
    }
    // From the exec on, the process has the new program's name and functions.
    let execed = profile.sum("wall", |s| s.label("process") == "shares") as f64;
    assert_close("exec", execed, truth.ns("shares") as f64, TOLERANCE);
    let burns = profile.sum("wall", |s| s.label("process") == "shares" && heavy(s)) as f64;
    assert!(burns > 0.8 * execed, "{}", profile.describe(9, |s| s.label("process") == "shares"));
    assert_eq!(profile.sum("wall", |s| s.label("process") != "shares" && heavy(s)), 0);
    let processes = profile.by_label("wall", "pid");
    assert_eq!(processes.len(), 4, "{processes:?}");
    let sleeps = |s: &Sample| s.has("grandchild_sleeps") && s.label("state") == "sleeping";
    assert!(profile.sum("wall", sleeps) > 0);
    assert!(says(profile, "3 child processes forked during the recording"), "{recording:?}");
    // Stacks of waiting threads are complete without a stop, and so are those of stopped ones; only
    // the dynamic loader has no unwind tables until it has mapped the libraries.
    let broken =
        profile.sum("wall", |s| s.stack.last().is_some_and(|f| f.function.starts_with('[')));
    assert!(broken * 50 < profile.total("wall"), "{}", profile.describe(9, |_| true));
}

#[test]
fn children_grandchildren_and_exec_by_ptrace() {
    let mut target = offspring();
    let recording = recorded(&mut target, &["cpu", "--backend", "ptrace", "-F", "499"]);
    let _ = target.finish();
    let profile = &recording.profile;
    // Both burn 1.5 s of CPU time and are sampled until shortly before they end.
    let burns = profile.sum("cpu", |s| s.has("grandchild_burns")) as f64;
    assert_close("grandchild", burns, 1.5e9, TOLERANCE);
    assert_close("exec", profile.sum("cpu", heavy) as f64, 1.5e9, TOLERANCE);
    assert!(says(profile, "3 child processes forked during the recording"), "{recording:?}");
}

#[test]
fn children_are_left_out_with_no_children() {
    for args in [&["wall", "--no-children"][..], &["--backend", "ptrace", "--no-children"]] {
        let mut target = offspring();
        let profile = recorded(&mut target, args).profile;
        let pids = profile.samples.iter().filter(|s| s.has("grandchild_burns") || heavy(s)).count();
        assert_eq!(pids, 0, "{}", profile.describe(9, |_| true));
        assert!(!says(&profile, "child process"), "{:?}", profile.comments);
        let _ = target.finish();
    }
}

/// Thread creation is reported by events, also for children.
#[test]
fn threads_created_by_children() {
    let mut target = offspring();
    let recording = recorded(&mut target, &["threadcreate"]);
    let _ = target.finish();
    let profile = &recording.profile;
    let created = |s: &Sample| s.has("child_creates") && s.label("process") == "offspring";
    assert_eq!(profile.sum("threadcreate", created), 1, "{}", profile.describe(9, |_| true));
}

/// The process that forked them ends before them.
#[test]
fn children_outlive_their_parent() {
    let mut shell = Command::new("sh");
    let shares = programs::SHARES.path();
    // The test sees the child in /proc, then lets its parent end.
    let script = format!(
        "echo ready pid=$$; read x; {} --burn 1500 </dev/null & read x; exit",
        shares.display()
    );
    shell.args(["-c", &script]);
    let mut target = Target::spawn_command(shell);
    let mut running = Recorder::of(target.pid()).args(["wall", "-d", "10m"]).start();
    running.wait_waiting();
    target.send("");
    let children = format!("/proc/{0}/task/{0}/children", target.pid());
    let child = loop {
        let pid = std::fs::read_to_string(&children).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse::<u32>() {
            break pid;
        }
        // A step of polling, not a wait for time to pass.
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    // By then exoprof has found the child.
    running.wait_used(child, 0.5);
    target.close();
    let _ = target.wait();
    // The recording ends with its last process.
    let profile = running.finish().recording().profile;
    let burned = profile.sum("wall", |s| s.label("pid") == child.to_string() && heavy(s)) as f64;
    assert!(burned > 1.4e9, "{}", profile.describe(9, |_| true));
}

/// Children that live for less than a sampling interval are not seen, but their CPU time is
/// reported.
#[test]
fn cpu_time_of_short_lived_children_is_reported() {
    let mut shell = Command::new("sh");
    let burns = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done";
    let script = format!(
        "echo ready pid=$$; read x; n=0; while [ $n -lt 100 ]; do ({burns}); n=$((n+1)); done; \
         echo done; read x"
    );
    shell.args(["-c", &script]).stderr(Stdio::null());
    let mut target = Target::spawn_command(shell);
    let mut running = Recorder::of(target.pid()).args(["wall", "-d", "10m", "-F", "5"]).start();
    running.wait_waiting();
    target.send("");
    target.wait_done();
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    assert!(says(&profile, "that ended was not sampled"), "{:?}", profile.comments);
}

/// Backends are forked by the recorded postmaster during the recording.
#[test]
fn postgres_under_pgbench_by_the_wall_clock() {
    let folder = open_folder();
    let mut postgres = postgres(folder.path());
    let mut running = Recorder::of(postgres.server.pid()).args(["wall", "-d", "10m"]).start();
    running.wait_waiting();
    let load = postgres.pgbench(&["-S", "-c", "4", "-T", "3", "-n"]).output().unwrap();
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    postgres.server.assert_running();
    let backend = |s: &Sample| s.has("PostgresMain");
    let mut backends: Vec<_> =
        profile.samples.iter().filter(|s| backend(s)).map(|s| s.label("pid").to_owned()).collect();
    backends.sort();
    backends.dedup();
    assert!(backends.len() >= 4, "four backends were forked: {backends:?}");
    // Four connections for three seconds each.
    let wall = profile.sum("wall", backend) as f64;
    assert_close("backends", wall, 12e9, 0.15);
    let waits = |s: &Sample| backend(s) && s.label("state") == "sleeping";
    assert!(profile.sum("wall", waits) > 0, "{}", profile.describe(9, backend));
    let whole = profile.sum("wall", |s| s.has("PostmasterMain"));
    assert!(
        whole as f64 > 0.95 * profile.total("wall") as f64,
        "{}",
        profile.describe(9, |_| true)
    );
}

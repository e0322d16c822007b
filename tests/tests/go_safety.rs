//! Tests that exoprof restores what it changes in a Go program, however exoprof ends, and changes
//! nothing when it is not sure of an address.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use exoprof_tests::gotarget::{Build, GoTarget, LAST, NO_RATES, Rates, build};
use exoprof_tests::recorder::{Running, exoprof};
use exoprof_tests::{Recorder, procfs, record};
use nix::sys::signal::Signal;
use process::Process;
use process::seize::{Stop, Threads, Tracer};

type Changed = fn(Rates) -> bool;

/// The profile kinds that change a rate, each with a check whether it is changed.
const CHANGING: [(&str, Changed); 4] = [
    ("heap", |r| r.heap != 0),
    ("allocs", |r| r.heap != 0),
    ("block", |r| r.block != 0),
    ("mutex", |r| r.mutex != 0),
];

fn start(target: &GoTarget, kind: &str) -> Running {
    Recorder::of(target.pid()).args([kind, "-d", "10m"]).start()
}

/// The running watchdog processes of exoprof.
fn watchdogs() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let is = |pid: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim_end() == "exoprof-restore"
    };
    pids.filter(is).collect()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(180), "{what}");
        // A step of polling, not a wait for time to pass.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_exoprof_leaves_no_rate_changed() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    for (kind, changed) in CHANGING {
        let running = start(&target, kind);
        target.wait_rates(kind, changed);
        running.signal(Signal::SIGKILL);
        let _ = running.finish();
        target.wait_rates("restored", |r| r == NO_RATES);
    }
    wait_until("the watchdogs have gone", || watchdogs().is_empty());
    // The program still works.
    target.ask("contend 1");
    target.ask("gc");
}

#[test]
fn interrupted_exoprof_restores_and_writes() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    for (kind, changed) in CHANGING {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let running = start(&target, kind);
            target.wait_rates(kind, changed);
            target.ask("contend 3");
            target.ask("keep 1");
            running.signal(signal);
            let _ = running.finish().recording();
            assert_eq!(target.rates(), NO_RATES, "{kind} {signal}");
        }
    }
    wait_until("the watchdogs have gone", || watchdogs().is_empty());
}

/// With two recordings at once, the one that ends first does not stop the other's sampling, and the
/// last one leaves nothing changed, even when it is killed.
#[test]
fn two_recordings_at_once_leave_no_rate_changed() {
    for last in [Signal::SIGINT, Signal::SIGKILL] {
        for (kind, changed) in CHANGING {
            let mut target = GoTarget::start(LAST, "plain", Build::Plain);
            let args = [kind, "-d", "10m", "--block-rate", "1", "--mutex-fraction", "1"];
            let args = || args.into_iter().chain(["--heap-rate", "16384"]);
            let first = Recorder::of(target.pid()).args(args()).start();
            target.wait_rates(kind, changed);
            let mut second = Recorder::of(target.pid()).args(args()).start();
            second.wait_waiting();
            target.ask("contend 5");
            target.ask("keep 2");
            first.signal(Signal::SIGINT);
            let first = first.finish().recording();
            // The second recording continues on its own and sees the rates that both had set.
            target.wait_rates("set by the second", changed);
            target.ask("contend 5");
            target.ask("keep 2");
            second.signal(last);
            let second = second.finish();
            target.wait_rates("restored", |r| r == NO_RATES);
            if last == Signal::SIGKILL {
                continue;
            }
            let value =
                |p: &exoprof_tests::Profile| p.samples.iter().map(|s| s.values[0]).sum::<i64>();
            let (first, second) = (value(&first.profile), value(&second.recording().profile));
            assert!(first > 0 && second > first, "{kind}: {first}, {second}");
        }
    }
}

/// If the target exits while it is recorded, the profile contains the last data that was read.
#[test]
fn a_target_that_exits_leaves_a_profile() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    let args = ["block", "-d", "10m", "--block-rate", "1"];
    let running = Recorder::of(target.pid()).args(args).start();
    target.wait_rates("set", |r| r.block != 0);
    // It waits for over a second in total, and exoprof reads twice a second.
    target.ask("contend 200");
    target.kill();
    let recording = running.finish().recording();
    assert!(recording.stderr.contains("the target exited"), "{}", recording.stderr);
    assert!(recording.profile.total("contentions") > 50);
    wait_until("the watchdog has gone", || watchdogs().is_empty());
}

/// In unoptimized code without symbols, addresses cannot be recovered reliably; exoprof detects
/// that.
#[test]
fn uncertain_addresses_are_not_written() {
    let mut target = GoTarget::start(LAST, "plain", Build::UnoptimisedStripped);
    let writable = || {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).unwrap();
        let data = maps.lines().find(|l| l.contains("plain-") && l.contains(" rw-p ")).unwrap();
        let (start, end) = data.split(' ').next().unwrap().split_once('-').unwrap();
        let hex = |s| u64::from_str_radix(s, 16).unwrap();
        let mut bytes = vec![0; (hex(end) - hex(start)) as usize];
        let memory = std::fs::File::open(format!("/proc/{}/mem", target.pid())).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, hex(start)).unwrap();
        bytes
    };
    let before = writable();
    for (kind, _) in CHANGING {
        let outcome = Recorder::of(target.pid()).args([kind, "-d", "1s"]).run();
        outcome.assert_fails(1, &["the address of runtime."]);
    }
    // The program itself updates clocks and counters there; exoprof would write a rate.
    let changed = before.chunks(8).zip(writable().chunks(8)).filter(|(a, b)| a != b).count();
    assert!(changed < 64, "{changed} words changed");
    target.ask("gc");
}

#[test]
fn heap_history_changes_nothing() {
    let target = GoTarget::start(LAST, "plain", Build::Plain);
    let outcome = Recorder::of(target.pid()).args(["heap", "--heap-history", "-d", "1s"]).run();
    outcome.assert_fails(1, &["no history", "--heap-history"]);
    assert_eq!(target.rates(), NO_RATES);
}

/// The threads that still have to handle a signal from the runtime: `m.signalPending`.
fn awaiting_signal(target: &GoTarget, [link, pending]: [u64; 2]) -> HashSet<u64> {
    let mut m = target.variable("runtime.allm");
    let mut all = HashSet::new();
    for _ in 0..1000 {
        if m == 0 {
            break;
        }
        // An atomic.Uint32.
        if target.word(m + pending) & 0xffff_ffff != 0 {
            all.insert(m);
        }
        m = target.word(m + link);
    }
    all
}

/// Stopping a Go program's threads must not lose signals in delivery: the runtime would wait
/// forever for its SIGURG, and the garbage collector with it.
#[test]
fn four_thousand_stops_lose_no_signal() {
    let mut target = GoTarget::start(LAST, "truth", Build::Plain);
    let offsets = target.offsets(["runtime.m.alllink", "runtime.m.signalPending"]);
    target.ask("spin 2");
    target.ask("stress 4");
    let count = |text: String| text.trim().parse::<u64>().expect("a count");
    let before = count(target.ask("collections"));
    let process = Process::open(target.pid().cast_signed()).expect("a process");
    let met = Tracer::run(|tracer| {
        let mut met = 0;
        for _ in 0..4_000 {
            let seized = tracer.seize(&process, Threads::All).expect("it can be stopped");
            met += seized.stopped().filter(|(_, stop)| matches!(stop, Stop::Signal(_))).count();
            seized.release();
        }
        met
    });
    let met = met.expect("a thread of ours");
    assert!(met > 0, "no stop met a signal: nothing was tested");
    eprintln!("{met} signals were under way at a stop");
    // Every thread must handle its signal at some time, not all at the same moment: more signals
    // are sent meanwhile.
    let mut waiting = awaiting_signal(&target, offsets);
    let began = Instant::now();
    while !waiting.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(180), "{} threads wait", waiting.len());
        let now = awaiting_signal(&target, offsets);
        waiting.retain(|m| now.contains(m));
    }
    // Each collection must interrupt every spinning goroutine with a signal.
    target.ask("gc");
    assert!(count(target.ask("collections")) >= before + 2);
    assert!(procfs::State::of(target.pid()).is_free());
}

/// The same with full dumps. One goroutine in some hundreds is at a point where Go itself could not
/// unwind its stack, and is stopped again: of 200, at most one has no stack in the end.
#[test]
fn dumps_of_a_busy_program_lose_no_signal_and_no_stack() {
    let mut target = GoTarget::start(LAST, "truth", Build::Stripped);
    target.ask("spin 2");
    target.ask("stress 2");
    let count = |text: String| text.trim().parse::<u64>().expect("a count");
    let pid = target.pid().to_string();
    let before = count(target.ask("collections"));
    let (mut with, mut without) = (0, 0);
    for _ in 0..50 {
        let output = exoprof().args(["dump", "-p", &pid]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let working =
            |g: &&str| g.contains("created by main.spin ") || g.contains("created by main.stress ");
        let (whole, other): (Vec<_>, Vec<_>) = text.split("\n\n").filter(working).partition(|g| {
            !g.contains("stack unavailable")
                && (g.contains("main.spinning(") || g.contains("main.stressing("))
        });
        with += whole.len();
        without += other.len();
    }
    assert!(with >= 190 && without <= 1, "{with} with a stack, {without} without");
    target.ask("gc");
    assert!(count(target.ask("collections")) > before);
    assert!(procfs::State::of(target.pid()).is_free());
}

/// The goroutines of large programs are mostly read without stopping threads.
#[test]
fn many_goroutines_are_read_with_short_stops() {
    for many in [10_000, 100_000] {
        let mut target = GoTarget::start(LAST, "truth", Build::Stripped);
        target.ask(&format!("many {many}"));
        target.ask("spin 2");
        let pid = target.pid();
        let stopped = || {
            let outcome = Recorder::of(pid).args(["goroutine"]).run().recording();
            assert!(outcome.profile.total("goroutine") > many, "{many}");
            let spinning = outcome.profile.sum("goroutine", |s| s.has("main.spinning"));
            assert_eq!(spinning, 2, "{many}: running goroutines must have stacks");
            // `2 threads that were running goroutines were stopped, 0.3 ms in total`
            let note = outcome.stderr.lines().find_map(|l| {
                let (_, rest) = l.split_once(" stopped, ")?;
                rest.split(' ').next()?.parse::<f64>().ok()
            });
            note.unwrap_or(0.0)
        };
        // If exoprof loses the CPU during a stop, the stop takes longer. Stopping for the whole
        // read would take long every time.
        let least = (0..5).map(|_| stopped()).find(|ms| *ms <= 10.0);
        assert!(least.is_some(), "{many}: over 10 ms five times");
    }
}

/// A Go version newer than this exoprof, simulated by renaming a known one: it is read
/// using its DWARF, or else the nearest known layout, if the result makes sense; in the latter case
/// it is never written to.
#[test]
fn unknown_versions_are_read_but_not_written_by_a_guess() {
    for (how, dwarf) in [(Build::Plain, true), (Build::Stripped, false)] {
        let known = std::fs::read(build(LAST, "plain", how)).unwrap();
        let mut unknown = known.clone();
        let name = format!("go{LAST}");
        for at in 0..known.len() - name.len() {
            if known[at..].starts_with(name.as_bytes()) {
                unknown[at + 4] = b'9';
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain");
        std::fs::write(&path, unknown).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        let mut target = GoTarget::run(&path, &[]);
        let recording = record(target.pid(), &["goroutine"]);
        assert!(recording.stderr.contains("go1.97"), "{how:?}: {}", recording.stderr);
        assert!(recording.profile.samples.iter().any(|s| s.has("main.main")), "{how:?}");
        let running = Recorder::of(target.pid()).args(["block", "--block-rate", "1", "-d", "3s"]);
        if dwarf {
            let running = running.start();
            target.wait_rates("set", |r| r.block == 1);
            target.ask("contend 2");
            running.signal(Signal::SIGINT);
            let profile = running.finish().recording().profile;
            assert_eq!(profile.sum("contentions", |s| s.has("main.waitChannel")), 2);
            assert_eq!(target.rates(), NO_RATES);
        } else {
            running.run().assert_fails(1, &["sampling cannot be switched on", "only a guess"]);
            target.ask("contend 1");
        }
    }
}

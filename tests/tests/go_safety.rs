//! What is changed in a Go program is put back, whatever becomes of exoprof; and where it is not
//! certain what would be changed, nothing is.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use exoprof_tests::gotarget::{Build, GoTarget, LAST, NO_RATES, Rates, build};
use exoprof_tests::recorder::{Running, exoprof};
use exoprof_tests::{Recorder, procfs, record};
use nix::sys::signal::Signal;
use process::Process;
use process::seize::{Stop, Threads, Tracer};

type Changed = fn(Rates) -> bool;

/// The kinds that change something, and whether it is changed.
const CHANGING: [(&str, Changed); 4] = [
    ("heap", |r| r.heap != 0),
    ("allocs", |r| r.heap != 0),
    ("block", |r| r.block != 0),
    ("mutex", |r| r.mutex != 0),
];

fn start(target: &GoTarget, kind: &str) -> Running {
    Recorder::of(target.pid()).args([kind, "-d", "10m"]).start()
}

/// Watchdogs of exoprof that run.
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
fn a_killed_exoprof_leaves_no_rate_changed() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    for (kind, changed) in CHANGING {
        let running = start(&target, kind);
        target.wait_rates(kind, changed);
        running.signal(Signal::SIGKILL);
        let _ = running.finish();
        target.wait_rates("restored", |r| r == NO_RATES);
    }
    wait_until("the watchdogs have gone", || watchdogs().is_empty());
    // It works on.
    target.ask("contend 1");
    target.ask("gc");
}

#[test]
fn an_interrupted_exoprof_restores_and_writes() {
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

/// Two at once: the one that ends first does not end the other's sampling, and the last one
/// leaves nothing behind, also when it is killed.
#[test]
fn two_at_once_leave_no_rate_changed() {
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
            // The second goes on by itself, and sees what both had set.
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

/// A target that exits while it is recorded leaves what was read last.
#[test]
fn a_target_that_exits_leaves_a_profile() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    let args = ["block", "-d", "10m", "--block-rate", "1"];
    let running = Recorder::of(target.pid()).args(args).start();
    target.wait_rates("set", |r| r.block != 0);
    // It waits for over a second, and exoprof reads twice a second.
    target.ask("contend 200");
    target.kill();
    let recording = running.finish().recording();
    assert!(recording.stderr.contains("the target exited"), "{}", recording.stderr);
    assert!(recording.profile.total("contentions") > 50);
    wait_until("the watchdog has gone", || watchdogs().is_empty());
}

/// Unoptimised code without symbols: the recovery of addresses is wrong there, and knows it.
#[test]
fn what_is_not_certain_is_not_written() {
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
    // The program itself counts time and the like there; what we write is a rate.
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

/// The threads that wait for a signal of the runtime's: `m.signalPending`.
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

/// What stops a Go program's threads must hand on the signals that were under way: the runtime
/// waits for its SIGURG for ever, and with it the garbage collector.
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
    // Each thread answers: not all need to at the same moment, since more signals are sent.
    let mut waiting = awaiting_signal(&target, offsets);
    let began = Instant::now();
    while !waiting.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(180), "{} threads wait", waiting.len());
        let now = awaiting_signal(&target, offsets);
        waiting.retain(|m| now.contains(m));
    }
    // Each collection needs every spinning goroutine to be interrupted by a signal.
    target.ask("gc");
    assert!(count(target.ask("collections")) >= before + 2);
    assert!(procfs::State::of(target.pid()).is_free());
}

/// The same with all that a dump does. One goroutine in some hundreds stands where Go itself could
/// not tell its stack, and is stopped again: of 200, none or one is left without.
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

/// The goroutines of large programs: read in the main without stopping anything.
#[test]
fn many_goroutines_are_hardly_stopped_for() {
    for many in [10_000, 100_000] {
        let mut target = GoTarget::start(LAST, "truth", Build::Stripped);
        target.ask(&format!("many {many}"));
        target.ask("spin 2");
        let pid = target.pid();
        let stopped = || {
            let outcome = Recorder::of(pid).args(["goroutine"]).run().recording();
            assert!(outcome.profile.total("goroutine") > many, "{many}");
            let spinning = outcome.profile.sum("goroutine", |s| s.has("main.spinning"));
            assert_eq!(spinning, 2, "{many}: running goroutines have stacks, too");
            // `2 threads that were running goroutines were stopped, 0.3 ms in total`
            let note = outcome.stderr.lines().find_map(|l| {
                let (_, rest) = l.split_once(" stopped, ")?;
                rest.split(' ').next()?.parse::<f64>().ok()
            });
            note.unwrap_or(0.0)
        };
        // Where exoprof loses the CPU between a stop and its end, that lasts for some more; to read
        // them all takes longer each time.
        let least = (0..5).map(|_| stopped()).find(|ms| *ms <= 10.0);
        assert!(least.is_some(), "{many}: over 10 ms five times");
    }
}

/// A version that is newer than this exoprof, played by a known one under another name: read by
/// its DWARF, or by the nearest layout that makes sense, and then never written.
#[test]
fn unknown_versions_are_read_and_never_written_by_a_guess() {
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
            running.run().assert_fails(1, &["not changed", "only a guess"]);
            target.ask("contend 1");
        }
    }
}

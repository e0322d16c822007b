//! Tests of heap, block and mutex sampling turned on from outside, in Go programs that import no
//! profiling package.

use std::collections::BTreeMap;

use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::gotarget::{
    BUILDS, Build, GoTarget, LAST, NO_RATES, Rates, build, build_with, for_each_version,
};
use exoprof_tests::recorder::Running;
use exoprof_tests::records::{Record, assert_same, records};
use exoprof_tests::{Profile, Recorder, Recording};
use nix::sys::signal::Signal;

/// Starts a recording that lasts until it is interrupted, and waits until its rate is set.
fn recording(target: &GoTarget, args: &[&str], set: impl Fn(Rates) -> bool) -> Running {
    let running = Recorder::of(target.pid()).args(args).args(["-d", "10m"]).start();
    target.wait_rates("set for the recording", set);
    running
}

fn ended(running: Running) -> Recording {
    running.signal(Signal::SIGINT);
    running.finish().recording()
}

const MIB: f64 = (1 << 20) as f64;

#[test]
fn heap_of_a_program_without_profiling() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Cgo] {
            let what = format!("{version} {how:?}");
            Rule { tolerance: 0.01, fault: 0.08, rounds: 3 }.check(|| {
                let mut target = GoTarget::start(version, "plain", how);
                let args = ["heap", "--heap-rate", "16384"];
                let running = recording(&target, &args, |r| r.heap != 0);
                assert_eq!(target.rates().heap, 16384, "{what}");
                target.ask("keep 64");
                target.ask("drop 512");
                target.ask("gc");
                let ended = ended(running);
                assert_eq!(target.rates(), NO_RATES, "{what}");
                let profile = &ended.profile;
                let period = (&*profile.period_type, profile.period);
                assert_eq!(period, ("space/bytes", 16384), "{what}");
                assert!(profile.comments.iter().any(|c| c.contains("since attach")), "{what}");
                let mib = |column: &str, function: &str| {
                    profile.sum(column, |s| s.has(function)) as f64 / MIB
                };
                let used = mib("inuse_space", "main.drop");
                assert!(used <= 0.1, "{what}: {used} MiB of the dropped");
                // Objects of the rate's size, each sampled with probability p = 1−1/e and scaled by
                // 1/p: their number n has a standard deviation of √((1−p) / (p·n)).
                let of = |column: &str, function: &str, truth: f64| {
                    let sigma = (0.582 / (truth * 64.0)).sqrt();
                    let name = format!("{what}: {column} of {function}");
                    Deviation::ratio(&name, mib(column, function), truth, sigma)
                };
                let deviations = vec![
                    of("inuse_space", "main.keep", 64.0),
                    of("alloc_space", "main.keep", 64.0),
                    of("alloc_space", "main.drop", 512.0),
                ];
                (deviations, ())
            });
        }
    });
}

/// A second recording does not include the allocations of the first.
#[test]
fn a_second_heap_recording_starts_from_zero() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    let args = ["allocs", "--heap-rate", "16KiB"];
    let first = recording(&target, &args, |r| r.heap != 0);
    target.ask("keep 64");
    let first = ended(first).profile;
    target.wait_rates("restored", |r| r == NO_RATES);
    let second = recording(&target, &args, |r| r.heap != 0);
    target.ask("drop 64");
    let second = ended(second).profile;
    let of = |p: &Profile, f: &str| p.sum("alloc_space", |s| s.has(f)) as f64 / MIB;
    assert_eq!(first.default_sample_type, "alloc_space");
    assert!((of(&first, "main.keep") - 64.0).abs() < 5.0);
    assert_eq!(of(&second, "main.keep"), 0.0);
    assert!((of(&second, "main.drop") - 64.0).abs() < 5.0);
}

/// 512 MiB at one sample per 112 MiB give 4.6 samples, so six runs give 27 ± 5. If the allocation
/// caches were not reset, each of eight would add one immediately: 75 ± 5. In samples of one run:
#[test]
fn allocation_caches_add_no_samples() {
    for_each_version(|version| {
        if !["1.21.13", "1.24.11", LAST].contains(&version) {
            return;
        }
        let path = build(version, "plain", Build::Plain);
        Rule { tolerance: 1.0, fault: 8.0, rounds: 4 }.check(|| {
            let mut samples = 0;
            for _ in 0..6 {
                let mut target = GoTarget::run(&path, &[("GOMAXPROCS", "8")]);
                // All eight processors (Ps) have allocated before.
                target.ask("spread 1");
                let args = ["heap", "--heap-rate", "117440512"];
                let running = recording(&target, &args, |r| r.heap != 0);
                target.ask("spread 64");
                let text = ended(running).stderr.clone();
                let kept =
                    text.lines().find_map(|l| l.strip_prefix("samples: ")?.split(' ').next());
                samples += kept.and_then(|n| n.parse::<u64>().ok()).expect("samples kept");
            }
            assert!(samples > 0, "{version}: no samples");
            let truth = 512.0 / 112.0;
            let (off, sigma) = (samples as f64 / 6.0 - truth, (truth / 6.0_f64).sqrt());
            (vec![Deviation { what: version.into(), off, sigma }], ())
        });
    });
}

/// The least and the most nanoseconds waited, as measured by the program itself.
fn waited(answer: &str) -> [f64; 2] {
    let numbers: Vec<f64> = answer.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{answer}"))
}

/// The ways in which `plain` waits: its function, and the Go function that it waits in.
const WAITS: [(&str, &str); 8] = [
    ("main.waitMutex", "sync.(*Mutex).Lock"),
    ("main.waitChannel", "runtime.chanrecv1"),
    ("main.waitSend", "runtime.chansend1"),
    ("main.waitSelect", "runtime.selectgo"),
    ("main.waitCond", "sync.(*Cond).Wait"),
    ("main.waitReader", "sync.(*RWMutex).RLock"),
    ("main.waitWriter", "sync.(*RWMutex).Lock"),
    ("main.waitGroup", "sync.(*WaitGroup).Wait"),
];

#[track_caller]
fn assert_waits(profile: &Profile, functions: &[&str], [least, most]: [f64; 2], what: &str) {
    let here = |s: &exoprof_tests::Sample| functions.iter().all(|f| s.has(f));
    assert_eq!(profile.sum("contentions", here), 40, "{what} {functions:?}");
    let delay = profile.sum("delay", here) as f64;
    // Between the program's two measurements: until just before it is woken, and until it runs
    // again. From reading the clock to waiting takes some microseconds of 5 ms.
    assert!(
        delay >= least * 0.95 && delay <= most * 1.01,
        "{what} {functions:?}: {delay} of {least} to {most}"
    );
}

#[test]
fn contention_of_a_program_without_profiling() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Cgo] {
            let what = format!("{version} {how:?}");
            let mut target = GoTarget::start(version, "plain", how);
            let args = ["block,mutex", "--block-rate", "1", "--mutex-fraction", "1", "-o", "."];
            let running = Recorder::of(target.pid()).args(args).args(["-d", "10m"]).name_itself();
            let folder = running.folder().to_owned();
            let running = running.start();
            target.wait_rates("set", |r| r.block == 1 && r.mutex == 1);
            let answer = target.ask("waits 40");
            let truth = |function: &str| {
                let line = answer.lines().find_map(|l| l.strip_prefix(&function["main.".len()..]));
                waited(line.expect("how long it waited"))
            };
            running.signal(Signal::SIGINT);
            let outcome = running.finish();
            assert_eq!(outcome.status.code(), Some(0), "{what} {outcome}");
            assert_eq!(target.rates(), NO_RATES, "{what}");
            let profile = |kind: &str| {
                let name = outcome.files().into_iter().find(|n| n.contains(kind)).expect("a file");
                Profile::decode(&std::fs::read(folder.join(name)).unwrap())
            };
            let block = profile(".block.");
            assert_eq!(block.sample_types, ["contentions/count", "delay/nanoseconds"], "{what}");
            assert_eq!((&*block.period_type, block.period), ("contentions/count", 1), "{what}");
            assert!(block.duration_nanos > 0, "{what}");
            for (function, waits_in) in WAITS {
                assert_waits(&block, &[function, waits_in], truth(function), &what);
            }
            let unlocker = ["main.waitMutex.func1", "sync.(*Mutex).Unlock"];
            assert_waits(&profile(".mutex."), &unlocker, truth("main.waitMutex"), &what);
        }
    });
}

/// The same program built with runtime/pprof, which can write its own profile: both have the same
/// records and counts. Delays differ by how exactly each side knows the frequency of the tick
/// counter, all by the same factor. Go 1.21 measures it over 100 ms, accurate within 0.02%; less if
/// it loses the CPU between reading the counter and the clock.
#[test]
fn contention_matches_the_programs_own_profile() {
    for_each_version(|version| {
        for how in BUILDS {
            let what = format!("{version} {how:?}");
            let (path, _) = build_with(version, "plain", how, "-own", &["-tags=own"]);
            let mut target = GoTarget::run(&path, &[]);
            let args = ["block,mutex", "--block-rate", "1ns", "--mutex-fraction", "1", "-o", "."];
            let recorder = Recorder::of(target.pid()).args(args).args(["-d", "10m"]).name_itself();
            let folder = recorder.folder().to_owned();
            let mut running = recorder.start();
            running.wait_waiting();
            target.ask("waits 3");
            let theirs = ["block", "mutex"].map(|kind| target.own_profile(kind));
            running.signal(Signal::SIGINT);
            let outcome = running.finish();
            assert_eq!(outcome.status.code(), Some(0), "{what} {outcome}");
            for (kind, theirs) in ["block", "mutex"].into_iter().zip(&theirs) {
                let is = |n: &String| n.contains(&format!(".{kind}."));
                let name = outcome.files().into_iter().find(is).expect("a file");
                let ours = Profile::decode(&std::fs::read(folder.join(name)).unwrap());
                // Contention of the runtime's own locks continues between the two readings.
                let of = |profile: &Profile| {
                    let mut all = records(profile, 128);
                    all.retain(|(stack, _), _| stack.iter().any(|f| f.starts_with("main.wait")));
                    all
                };
                let (mut ours, mut theirs) = (of(&ours), of(theirs));
                assert!(theirs.len() >= if kind == "block" { 8 } else { 1 }, "{what}: {theirs:?}");
                let delays = |all: &BTreeMap<Record, Vec<i64>>| -> f64 {
                    all.values().map(|v| v[1] as f64).sum()
                };
                let factor = delays(&ours) / delays(&theirs);
                assert!((factor - 1.0).abs() < 0.02, "{what} {kind}: {factor} of its delays");
                for (record, values) in &mut ours {
                    let Some(own) = theirs.get_mut(record) else { continue };
                    let off = (values[1] as f64 - own[1] as f64 * factor).abs();
                    // Each wait is rounded to nanoseconds.
                    if off <= own[1] as f64 * 0.0001 + own[0] as f64 {
                        values[1] = own[1];
                    }
                }
                assert_same(&ours, &theirs, &format!("{what} {kind}"));
            }
        }
    });
}

#[test]
fn waiters_of_a_mutex() {
    let mut target = GoTarget::start(LAST, "plain", Build::Plain);
    let args = ["mutex", "--waiters", "--block-rate", "1ns"];
    let running = recording(&target, &args, |r| r.block != 0);
    let mutex = waited(&target.ask("contend 40"));
    let profile = ended(running).profile;
    assert_waits(&profile, &["main.waitMutex", "sync.(*Mutex).Lock"], mutex, "waiters");
    assert!(!profile.samples.iter().any(|s| s.has("main.waitChannel")));
}

/// A program that already samples is read without a change; the profile contains only what was
/// added.
#[test]
fn contention_of_a_program_that_samples_itself() {
    for_each_version(|version| {
        let mut target = GoTarget::start(version, "truth", Build::Plain);
        target.ask("contend 3");
        target.ask("setrates 1");
        let set = target.rates();
        let mut running =
            Recorder::of(target.pid()).args(["block", "--block-rate", "1s", "-d", "10m"]).start();
        running.wait_waiting();
        assert_eq!(target.rates(), set, "{version}");
        target.ask("wait 7");
        let recording = ended(running);
        assert_eq!(target.rates(), set, "{version}: left as it was");
        let profile = &recording.profile;
        let at = |f: &str| profile.sum("contentions", |s| s.has(f));
        assert_eq!(at("main.waitChannel"), 7, "{version}");
        let own = target.own_profile("block");
        let all = own.sum("contentions", |s| s.has("main.waitChannel"));
        assert_eq!(all, 10, "{version}: its own profile has the earlier ones as well");
        assert!(profile.comments.iter().any(|c| c.contains("the program's own rate")));
    });
}

/// The command has no input here and ends immediately: exoprof must find it while it runs, or
/// report that it did not start. `truth` initializes for half a second before that.
#[test]
fn a_command_is_recorded_from_its_start() {
    let truth = build(LAST, "truth", Build::Stripped);
    let outcome =
        Recorder::new().args(["goroutine", "-d", "20s"]).command(&[truth.to_str().unwrap()]).run();
    let recording = outcome.recording();
    assert!(recording.stderr.contains("the target exited"), "{}", recording.stderr);
    // It was read at least once before it ended.
    assert!(recording.profile.samples.iter().any(|s| s.has("main.main")));
    assert!(recording.profile.total("goroutine") > 1);
}

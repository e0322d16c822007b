//! Tests that values are CPU nanoseconds as the kernel counts them, within 2% in total and per
//! thread, however many timers fire late. The targets work entirely within the recording: they
//! start when samples are taken and finish before the recording ends, so schedstat is exact.

use std::collections::BTreeMap;

use exoprof_tests::compared::account;
use exoprof_tests::expect::assert_close;
use exoprof_tests::procfs;
use exoprof_tests::programs;
use exoprof_tests::{Recorder, Recording, Target, Truth};
use nix::sys::signal::Signal;

/// Totals agree with schedstat within 2%.
const TOLERANCE: f64 = 0.02;

struct Measured {
    recording: Recording,
    threads: BTreeMap<u32, u64>,
    truth: Truth,
}

fn within_recording(mut target: Target, ms: u64, hertz: &str) -> Measured {
    let pid = target.pid();
    let before = target.mark();
    let cpu_before = procfs::cpu_by_thread(pid);
    // SIGINT ends the recording when the work is done; the duration is only a limit.
    let mut running = Recorder::of(pid).args(["-d", "10m", "-F", hertz]).start();
    running.wait_recording();
    target.go(ms);
    target.wait_done();
    running.signal(Signal::SIGINT);
    let recording = running.finish().recording();
    let mut threads = procfs::cpu_by_thread(pid);
    for (tid, ns) in &mut threads {
        *ns -= cpu_before.get(tid).copied().unwrap_or(0);
    }
    let truth = target.mark().since(&before);
    let _ = target.finish();
    Measured { recording, threads, truth }
}

fn assert_total(measured: &Measured) {
    let cpu = measured.recording.profile.total("cpu") as f64;
    let truth = measured.threads.values().sum::<u64>() as f64;
    assert_close("total CPU", cpu, truth, TOLERANCE);
}

#[test]
fn single_thread_total() {
    for hertz in ["99", "997"] {
        let measured = within_recording(Target::spawn(programs::SHARES, &[]), 2500, hertz);
        assert_total(&measured);
        let profile = &measured.recording.profile;
        assert_eq!(profile.sample_types, ["samples/count", "cpu/nanoseconds"]);
        assert_eq!(profile.period_type, "cpu/nanoseconds");
        assert_eq!(profile.period, 1_000_000_000 / hertz.parse::<i64>().unwrap());
        // Sample counts are not scaled: never more than the rate allows, and not so few that the
        // kernel must have used another rate (77% has been measured on virtual machines).
        let expected = measured.truth.total() as f64 / profile.period as f64;
        let samples = profile.total("samples") as f64;
        assert!(samples < expected * 1.1 + 5.0, "{samples} samples, {expected} at most");
        assert!(samples > expected * 0.5, "{samples} samples, {expected} at best");
    }
}

#[test]
fn every_thread_is_right() {
    let measured = within_recording(Target::spawn(programs::THREADS, &["fixed", "4"]), 2000, "997");
    assert_total(&measured);
    let by_thread = measured.recording.profile.by_label("cpu", "thread_id");
    for (tid, truth) in &measured.threads {
        // Threads that did almost nothing (the main thread) are too short for 2%.
        if *truth > 100_000_000 {
            let cpu = by_thread.get(&tid.to_string()).copied().unwrap_or(0);
            assert_close(&format!("thread {tid}"), cpu as f64, *truth as f64, TOLERANCE);
        }
    }
    // And each thread's time is in its own function.
    for site in ["burn_0", "burn_1", "burn_2", "burn_3"] {
        let cpu = measured.recording.profile.sum("cpu", |s| s.has(site)) as f64;
        assert_close(site, cpu, measured.truth.ns(site) as f64, 0.03);
    }
}

/// 60 threads that start after the recording, each with 20 ms of CPU time. A thread has some 20
/// samples and is not seen between its last reading and its end, hence 5%.
#[test]
fn threads_that_come_and_go() {
    let measured = within_recording(Target::spawn(programs::THREADS, &["churn", "4"]), 1200, "997");
    let cpu = measured.recording.profile.total("cpu") as f64;
    assert_close("total CPU", cpu, measured.truth.total() as f64, 0.05);
    let threads = measured.recording.profile.by_label("cpu", "thread_id").len();
    assert!(threads >= 58, "{threads} of 60 threads seen");
}

/// 16,000 threads end during the recording, each on any CPU, while the other CPU takes ten thousand
/// samples a second. A ring buffer that more than one CPU writes to soon stalls, and all later
/// records of its CPU are lost: less than half would be kept. Some may be lost if the machine does
/// not let exoprof read in time.
#[test]
fn many_threads_end_at_a_high_rate() {
    let target = Target::spawn(programs::THREADS, &["brief", "4"]);
    let measured = within_recording(target, 800, "9973");
    let (kept, lost) = account(&measured.recording.profile);
    assert!(lost * 10 < kept, "{}", *measured.recording);
    let cpu = measured.recording.profile.sum("cpu", |s| s.has("burn_for")) as f64;
    // The rest of a thread's 0.05 ms is its start and end in the kernel.
    assert!(cpu > 0.9 * measured.truth.total() as f64, "{cpu} of {}", measured.truth.total());
}

/// Each of 1000 threads works for 3 ms: about three samples, sometimes none, so only the sum is
/// checked.
#[test]
fn a_thousand_threads() {
    let target = Target::spawn(programs::THREADS, &["many", "1000"]);
    let measured = within_recording(target, 3000, "997");
    assert_total(&measured);
    let threads = measured.recording.profile.by_label("cpu", "thread_id").len();
    assert!(threads > 800, "{threads} of 1000 threads seen");
}

/// Idle time must not be counted: some 4% of a CPU is used, and no more may be recorded. 150 wakes
/// of 0.2 ms get few samples, so the value depends on the weighting by schedstat.
#[test]
fn idle_program() {
    let mut target = Target::working(programs::SLEEPY, &[]);
    let before = target.mark();
    let recording = Recorder::of(target.pid()).args(["-d", "3s", "-F", "997"]).run().recording();
    let used = target.mark().since(&before).total();
    let total = recording.profile.total("cpu");
    assert!(total > 0, "{}", recording.stderr);
    assert!((total as u64) <= used + used / 2, "{total} ns recorded, {used} ns used meanwhile");
    let _ = target.finish();
}

/// The duration and the start time in the profile are plausible.
#[test]
fn header_times() {
    let measured = within_recording(Target::spawn(programs::SHARES, &[]), 1000, "997");
    let profile = &measured.recording.profile;
    assert!(profile.duration_nanos >= 900_000_000, "{}", profile.duration_nanos);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let age = now.as_nanos() as i64 - profile.time_nanos;
    assert!(age >= profile.duration_nanos && age < 120_000_000_000, "{age}");
}

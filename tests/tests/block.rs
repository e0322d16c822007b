//! Tests of `record block`: delays and counts compared with the program's own measurements.

use std::time::{Duration, Instant};

use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::compared::{Compared, account};
use exoprof_tests::{Profile, Recorder, Sample, Target, procfs, programs};
use nix::sys::signal::Signal;

/// The `wait` label of each site of `waits.c times`.
const KINDS: &[(&str, &str)] = &[
    ("sleep_long", "sleep"),
    ("sleep_short", "sleep"),
    ("wait_poll", "poll"),
    ("read_pipe", "io"),
    ("wait_cond", "futex"),
    ("wait_semaphore", "futex"),
];

#[track_caller]
fn assert_kinds(profile: &Profile, kinds: &[(&str, &str)]) {
    for (site, kind) in kinds {
        let of = |s: &Sample| s.has(site) && s.label("wait") != "runnable";
        let all = profile.sum("delay", of);
        let right = profile.sum("delay", |s| of(s) && s.label("wait") == *kind);
        assert!(all > 0 && right == all, "{site}: {right} of {all} ns are {kind}");
    }
}

/// Sites whose waits are longer than the rate.
const LONG: [&str; 5] = ["sleep_long", "wait_poll", "read_pipe", "wait_cond", "wait_semaphore"];
/// Waits longer than the rate are all sampled, so only the partial ones at both ends are subject to
/// chance.
const EVERY_WAIT: Rule = Rule { tolerance: 0.02, fault: 0.06, rounds: 12 };

/// Asserts the delays of [`LONG`] and the numbers of `counted`, by as many recordings as that takes.
#[track_caller]
fn assert_long(rule: Rule, counted: &[&str], mut record: impl FnMut() -> Compared) -> Compared {
    rule.check(|| {
        let compared = record();
        let delays = LONG.iter().map(|site| compared.delay(site));
        (delays.chain(counted.iter().map(|site| compared.count(site))).collect(), compared)
    })
}

#[test]
fn delays_and_counts_match_the_program() {
    let compared = assert_long(EVERY_WAIT, &["sleep_long", "wait_poll"], || {
        Compared::of(programs::WAITS, "times", (5.0, &["block", "--block-rate", "1ms"]), &[])
    });
    let profile = &compared.profile;
    assert_eq!(profile.sample_types, ["contentions/count", "delay/nanoseconds"]);
    assert_eq!((profile.period_type.as_str(), profile.period), ("contentions/count", 1));
    assert_kinds(profile, KINDS);
    // The stack continues into the kernel, where the thread blocks.
    let at = profile.sum("delay", |s| s.has("sleep_long"));
    let blocked = profile.sum("delay", |s| {
        s.has("sleep_long")
            && s.stack.iter().any(|f| f.function.contains("nanosleep"))
            && s.leaf().mapping.as_ref().is_some_and(|m| m.file.contains("kernel"))
    });
    assert!(blocked as f64 > 0.98 * at as f64, "{}", profile.describe(6, |s| s.has("sleep_long")));
    // Waiting for a CPU is reported separately.
    assert!(profile.sum("delay", |s| s.label("wait") == "runnable") > 0);
    // The main thread waits for standard input all the time: once until a mark is requested, and
    // again until the recording ends.
    let main = profile.sum("delay", |s| s.has("truth_obey"));
    let all = profile.duration_nanos as f64;
    assert!((main as f64 / all - 1.0).abs() < 0.02, "{main} of {all} ns in main");
    assert!(profile.sum("delay", |s| s.has("truth_obey") && s.label("in_progress") == "true") > 0);
}

/// How far the delay of waits of 250 µs is from the truth.
///
/// On an idle CPU, the kernel starts to count a thread's CPU time when it wakes the thread, and only
/// then switches to it: 6 µs later on one machine, 25 µs on another. What the program takes for its
/// own CPU time is therefore partly waiting, so the right delay lies between its wall time less its
/// CPU time and its wall time.
fn short_sleeps(compared: &Compared) -> Deviation {
    let short = |s: &Sample| s.has("sleep_short");
    let bounds = (compared.truth(&["sleep_short"]), compared.truth(&["sleep_short_wall"]));
    let delay = compared.measured("delay", short);
    Deviation::between("delay of sleep_short", delay, bounds, compared.chance(short))
}

/// Waits of 250 µs at a rate of 1 ms. Their scaled-up values are right on average and vary by
/// chance: the number of n waits has a standard deviation of √(5 / n) (four for each sampled wait,
/// and the first half second, in which the rate is coarser); on a busy machine n is smaller.
#[test]
fn waits_shorter_than_the_rate() {
    let args = ["block", "--block-rate", "1ms"];
    let rule = Rule { tolerance: 0.02, fault: 0.12, rounds: 16 };
    rule.check(|| {
        let compared = Compared::of(programs::WAITS, "short", (6.0, &args), &[]);
        let waits = 6.0 * compared.truth(&["sleep_short_n"]);
        let count = Deviation { sigma: (5.0 / waits).sqrt(), ..compared.count("sleep_short") };
        let long = [compared.delay("sleep_long"), compared.count("sleep_long")];
        ([short_sleeps(&compared), count].into_iter().chain(long).collect(), ())
    });
}

/// Without restartable sequences, stacks are taken at the exit of system calls. Recorded for 5 s:
/// what the program does while the recording starts counts only in its own measurement; that is
/// about 1% of 5 s, beside the 2% of other tests.
#[test]
fn threads_without_rseq() {
    let env = [("GLIBC_TUNABLES", "glibc.pthread.rseq=0")];
    let compared = assert_long(Rule { tolerance: 0.03, ..EVERY_WAIT }, &[], || {
        Compared::of(programs::WAITS, "times", (5.0, &["block"]), &env)
    });
    compared.assert_says("stacks at sys_exit");
    assert_kinds(&compared.profile, KINDS);
}

/// Waits of 5 to 20 ms, some 600 a second: every one is sampled.
#[test]
fn perf_events_alone() {
    let compared = assert_long(EVERY_WAIT, &["sleep_long"], || {
        Compared::of(programs::WAITS, "long", (5.0, &["block", "--backend", "perf"]), &[])
    });
    compared.assert_says("every context switch was sampled");
    compared.assert_says("without BPF programs: --backend perf was given");
    let kinds: Vec<_> = KINDS.iter().copied().filter(|(site, _)| *site != "sleep_short").collect();
    assert_kinds(&compared.profile, &kinds);
}

/// At some 5000 switches a second, about one in several is sampled and scaled up. The rarest sites
/// are left out. A site's waits are of about one length, so n samples give their sum by 1/√n.
#[test]
fn perf_events_alone_with_a_period() {
    let rule = Rule { tolerance: 0.05, fault: 0.3, rounds: 16 };
    let compared = rule.check(|| {
        let args = ["block", "--backend", "perf"];
        let compared = Compared::of(programs::WAITS, "times", (4.0, &args), &[]);
        let switches = compared.profile.total("contentions") as f64;
        // One in as many switches is sampled.
        let period = switches / account(&compared.profile).0 as f64;
        let chance = |site: &str| {
            (period / compared.profile.sum("contentions", |s| s.has(site)) as f64).sqrt()
        };
        let of = |site: &str| Deviation { sigma: chance(site), ..compared.delay(site) };
        let short = Deviation { sigma: chance("sleep_short"), ..short_sleeps(&compared) };
        (vec![of("read_pipe"), of("wait_cond"), of("wait_semaphore"), short], compared)
    });
    compared.assert_says("was sampled; the time until a CPU is free");
}

/// Waits that never end are in the profile too, each thread with its stack and full time. Meanwhile
/// they cost almost nothing.
#[test]
fn a_thousand_threads_that_wait_forever() {
    let target = Target::working(programs::BLOCKED, &["1000"]);
    let mut running = Recorder::of(target.pid()).args(["block", "-d", "10m"]).start();
    running.wait_recording();
    let own = || procfs::cpu_by_thread(running.pid()).values().sum::<u64>() as f64;
    let (began, before) = (Instant::now(), own());
    // The length of the measurement, not a wait for an event.
    std::thread::sleep(Duration::from_secs(2));
    let share = (own() - before) / began.elapsed().as_nanos() as f64;
    assert!(share < 0.03, "{:.1}% of a CPU", share * 100.0);
    running.signal(Signal::SIGINT);
    let recording = running.finish().recording();
    let profile = &recording.profile;
    let blocked = |s: &Sample| s.has("wait_for_ever") && s.label("in_progress") == "true";
    assert_eq!(profile.sum("contentions", blocked), 1000, "{}", profile.describe(3, |_| true));
    let (waited, all) = (profile.sum("delay", blocked), 1000 * profile.duration_nanos);
    assert!((waited as f64 / all as f64 - 1.0).abs() < 0.02, "{waited} of {all} ns");
    let threads = profile.by_label("contentions", "thread_id");
    assert!(threads.len() >= 1000, "{} threads", threads.len());
}

/// Ten thousand waits of 100 ms a second: too many to sample all of them, at any rate.
#[test]
fn a_thousand_threads_that_sleep() {
    let target = Target::working(programs::BLOCKED, &["1000", "100"]);
    let recording = Recorder::new()
        .args(["block", "-d", "3s", "-p", &target.pid().to_string()])
        .run()
        .recording();
    let profile = &recording.profile;
    assert_eq!(account(profile).1, 0, "{}", *recording);
    // Without the 1000 waits still in progress at the end.
    let per_second = (account(profile).0 - 1000) as f64 * 1e9 / profile.duration_nanos as f64;
    assert!(per_second <= 2000.0, "{per_second} samples a second");
    let asleep = profile.sum("delay", |s| s.has("sleep_again"));
    let all = 1000.0 * profile.duration_nanos as f64;
    // Some 3000 samples: 4 standard deviations are 7%.
    assert!((asleep as f64 / all - 1.0).abs() < 0.08, "{asleep} of {all} ns");
}

/// Hundreds of thousands of switches a second must not lose a record.
#[test]
fn ping_pong() {
    let target = Target::working(programs::PINGPONG, &[]);
    let recording = Recorder::new()
        .args(["block", "-d", "2s", "-p", &target.pid().to_string()])
        .run()
        .recording();
    let profile = &recording.profile;
    assert_eq!(account(profile).1, 0, "{}", *recording);
    assert!(profile.sum("delay", |s| s.has("play")) > 0);
    assert!(account(profile).0 as f64 <= 2000.0 * 2.1, "{}", *recording);
}

/// A command from its start, and the children that it forks.
#[test]
fn a_command_and_its_children() {
    let script = "sleep 0.8 & (sleep 0.8; sleep 0.8) & wait";
    let recording = Recorder::new()
        .args(["block", "-d", "10m"])
        .command(&["sh", "-c", script])
        .run()
        .recording();
    let profile = &recording.profile;
    let slept = profile.sum("delay", |s| {
        let sleeps = s.label("process") == "sleep" && s.label("wait") == "sleep";
        sleeps && s.stack.iter().any(|f| f.function.contains("nanosleep"))
    });
    // A timer is never early; it is late when the machine itself gets no CPU time from its host.
    assert!(
        (0.999..1.05).contains(&(slept as f64 / 2.4e9)),
        "{slept} ns\n{}",
        profile.describe(9, |_| true)
    );
    // The shell waits for a child, or for the signal that reports its end.
    let waited = profile.sum("delay", |s| ["child", "signal"].contains(&s.label("wait")));
    assert!(waited as f64 > 2.3e9, "{waited} ns\n{}", profile.describe(9, |_| true));
}

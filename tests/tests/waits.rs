//! Waiting on real programs, and what sampling it must not do to others.

use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use events::{EventKind, WaitOptions, WaitSample, WaitSampler, online_cpus};
use exoprof_tests::expect::reaches_root;
use exoprof_tests::programs;
use exoprof_tests::server::{Background, open_folder, postgres, redis};
use exoprof_tests::{Profile, Recorder, Recording, Target};
use nix::sys::signal::Signal;

#[track_caller]
fn assert_whole(profile: &Profile) {
    let whole = profile.sum("delay", reaches_root) as f64 / profile.total("delay") as f64;
    let broken = |s: &exoprof_tests::Sample| !reaches_root(s);
    assert!(whole > 0.99, "{whole:.4} reach their roots\n{}", profile.describe(9, broken));
}

fn block(pid: u32, duration: &str) -> Recording {
    Recorder::of(pid).args(["block", "-d", duration]).run().recording()
}

#[track_caller]
fn assert_nothing_lost(recording: &Recording) {
    let account = recording.profile.comments.iter().find(|c| c.starts_with("samples: "));
    assert!(account.is_some_and(|a| a.contains(" kept, 0 lost")), "{account:?}");
}

/// Clients that update the same row wait for each other's transactions: in backends that the
/// postmaster forks during the recording, in functions that only its export table names.
#[test]
fn postgres_with_contended_updates() {
    let folder = open_folder();
    let mut postgres = postgres(folder.path());
    let mut running = Recorder::of(postgres.server.pid()).args(["block", "-d", "60s"]).start();
    running.wait_recording();
    let load = postgres.pgbench(&["-c", "6", "-t", "300", "-n"]).output().unwrap();
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    running.signal(Signal::SIGINT);
    let recording = running.finish().recording();
    postgres.server.assert_running();
    assert_nothing_lost(&recording);
    let profile = &recording.profile;
    assert_whole(profile);
    // One of six proceeds at a time.
    let of_backends = profile.sum("delay", |s| s.has("PostgresMain"));
    let for_locks = profile.sum("delay", |s| s.has("ProcSleep"));
    let share = for_locks as f64 / of_backends as f64;
    assert!(share > 0.2, "{share:.3} in ProcSleep\n{}", profile.describe(9, |_| true));
    let polled = profile.sum("delay", |s| s.has("ProcSleep") && s.label("wait") == "poll");
    let asleep = profile.sum("delay", |s| s.has("ProcSleep") && s.label("wait") != "runnable");
    assert!(polled as f64 > 0.9 * asleep as f64, "{polled} of {asleep} ns");
    assert!(profile.by_label("delay", "pid").len() >= 6, "six backends were forked");
}

#[test]
fn redis_waits_for_its_clients() {
    let folder = open_folder();
    let (mut server, port) = redis(folder.path());
    let port = port.to_string();
    let mut load = Background::start(Command::new("redis-benchmark").args([
        "-p",
        &port,
        "-c",
        "20",
        "-n",
        "100000000",
        "-q",
        "-t",
        "get",
    ]));
    load.wait_until("busy", || {
        exoprof_tests::procfs::cpu_by_thread(server.pid())
            .get(&server.pid())
            .is_some_and(|ns| *ns > 50_000_000)
    });
    let recording = block(server.pid(), "2s");
    server.assert_running();
    load.assert_running();
    assert_nothing_lost(&recording);
    let profile = &recording.profile;
    assert_whole(profile);
    let polled = profile.sum("delay", |s| s.has("aeMain") && s.label("wait") == "poll");
    let loop_waits = profile.sum("delay", |s| s.has("aeMain") && s.label("wait") != "runnable");
    assert!(polled > 0 && polled as f64 > 0.9 * loop_waits as f64, "{polled} of {loop_waits} ns");
    // Background threads wait for work all the time: a condition variable is no lock.
    let mutex = Recorder::of(server.pid()).args(["mutex", "-d", "1s"]).run().recording();
    assert_eq!(mutex.profile.sum("contentions", |s| s.has("bioProcessBackgroundJobs")), 0);
}

/// Without CAP_BPF, with the rights for perf events and the target: what can be had is had, and
/// the profile says what is missing.
#[test]
fn without_the_right_to_load_programs() {
    let target = Target::working(programs::WAITS, &["long"]);
    let launcher = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"];
    let launcher: Vec<&std::ffi::OsStr> = launcher.iter().map(AsRef::as_ref).collect();
    let recording = Recorder::launched_by(&launcher)
        .args(["block", "-d", "1s", "-p", &target.pid().to_string()])
        .run()
        .recording();
    let says = |words: &str| recording.profile.comments.iter().any(|c| c.contains(words));
    assert!(says("without bpf programs") && says("CAP_BPF"), "{:?}", recording.profile.comments);
    assert!(recording.profile.sum("delay", |s| s.has("sleep_long")) > 0);
    // Killed or not, it leaves the target alone.
    let _ = target.finish();
}

fn sampler(options: &WaitOptions) -> (WaitSampler, events::RingSet) {
    WaitSampler::open(&online_cpus().unwrap(), options).expect("bpf programs can be loaded here")
}

/// A ring that is much too small: every record that was lost is counted.
#[test]
fn losses_are_counted() {
    let target = Target::working(programs::BLOCKED, &["100", "1"]);
    let options = WaitOptions {
        block: true,
        mutex: false,
        futex_only: false,
        children: true,
        stack_bytes: 8192,
        ring_bytes: 32 << 10,
        finest_rate: 1000,
    };
    let (mut sampler, mut rings) = sampler(&options);
    let process = target::Process::open(target.pid().cast_signed()).unwrap();
    sampler.follow(&[process.as_fd()]).unwrap();
    sampler.begin(0, 0).unwrap();
    // Nobody reads the rings until they have overflown.
    let began = Instant::now();
    while sampler.counters().failed < 100 {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", sampler.counters());
        std::thread::sleep(Duration::from_millis(10));
    }
    sampler.end().unwrap();
    // What was sampled before that is written when its thread comes by.
    let mut before = sampler.counters();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = sampler.counters();
        if now == before {
            break;
        }
        before = now;
    }
    let mut written = 0;
    rings.drain(u64::MAX, |e| {
        if let EventKind::Sample(s) = e.kind {
            assert!(matches!(WaitSample::parse(s.raw), Some(WaitSample::Waited(_))));
            written += 1;
        }
    });
    let counters = sampler.counters();
    assert_eq!(written, counters.emitted, "{counters:?}");
    // A sample taken while one was pending is in the same record.
    assert!(counters.emitted + counters.failed <= counters.picked, "{counters:?}");
    assert!(counters.picked - counters.emitted - counters.failed <= 100, "{counters:?}");
    assert!(rings.losses().lost <= counters.failed, "{:?} {counters:?}", rings.losses());
    assert_eq!(rings.losses().malformed, 0);
    let _ = target.finish();
}

/// Switches of the target, counted by perf for half a second.
fn perf_counts(pid: u32) -> u64 {
    let output = Command::new("perf")
        .args(["stat", "-x,", "-e", "sched:sched_switch", "-p", &pid.to_string()])
        .args(["sleep", "0.5"])
        .output()
        .expect("perf; run scripts/setup-tests");
    let text = String::from_utf8_lossy(&output.stderr);
    let line =
        text.lines().find(|l| l.contains("sched_switch")).unwrap_or_else(|| panic!("{text}"));
    line.split(',').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"))
}

/// Other users of the tracepoints see the same events while ours are attached. The program
/// switches some 600 times a second in 10 ms steps: within 20%.
#[test]
fn other_users_of_the_tracepoints_are_not_affected() {
    let target = Target::working(programs::WAITS, &["long"]);
    let before = perf_counts(target.pid());
    let mut running =
        Recorder::of(target.pid()).args(["block,mutex", "-d", "60s"]).name_itself().start();
    running.wait_recording();
    let during = perf_counts(target.pid());
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().status.code(), Some(0));
    let ratio = during as f64 / before as f64;
    assert!(before > 100 && (ratio - 1.0).abs() < 0.2, "{before} and {during} switches");
    let _ = target.finish();
}

/// exoprof killed in the middle: the kernel takes everything away, the target goes on, and
/// another recording works.
#[test]
fn killed_in_the_middle() {
    let mut target = Target::working(programs::WAITS, &["times"]);
    let mut running = Recorder::of(target.pid()).args(["block", "-d", "60s"]).start();
    running.wait_recording();
    running.signal(Signal::SIGKILL);
    let _ = running.finish();
    let before = target.mark();
    let profile: Profile = block(target.pid(), "1s").profile.clone();
    assert!(target.mark().since(&before).ns("sleep_long_n") > 20);
    assert!(profile.sum("delay", |s| s.has("sleep_long")) > 0);
    let _ = target.finish();
}

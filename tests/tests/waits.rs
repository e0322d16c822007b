//! Waiting on real programs, and what sampling it must not do to others.

use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use events::{EventKind, WaitOptions, WaitSample, WaitSampler, WaitWants, online_cpus};
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
    let options =
        WaitOptions { children: true, stack_bytes: 8192, ring_bytes: 32 << 10, finest_rate: 1000 };
    let (mut sampler, mut rings) = sampler(&options);
    let process = target::Process::open(target.pid().cast_signed()).unwrap();
    sampler.follow(&[process.as_fd()]).unwrap();
    let wants = WaitWants { waits: true, ..WaitWants::default() };
    sampler.begin(0, 0, wants).unwrap();
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

/// A waiter that stayed counted for good would have others charged for ever. The windows are narrow:
/// a thread is woken on one CPU while it goes to sleep on another, or while it is being looked at
/// for the first time. Stopped threads wait for no futex.
#[test]
fn no_waiter_is_left_behind() {
    let target = Target::working(programs::SCRAMBLE, &[]);
    let pid = nix::unistd::Pid::from_raw(target.pid().cast_signed());
    let process = target::Process::open(pid.as_raw()).unwrap();
    let options = WaitOptions {
        children: true,
        stack_bytes: 1024,
        ring_bytes: 32 << 10,
        finest_rate: 1_000_000_000,
    };
    for round in 0..10 {
        let (mut sampler, _rings) = sampler(&options);
        sampler.follow(&[process.as_fd()]).unwrap();
        sampler.begin(0, 0, WaitWants { wakings: true, ..WaitWants::default() }).unwrap();
        let began = Instant::now();
        while sampler.counters().wakes_picked == 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", sampler.counters());
            std::thread::sleep(Duration::from_millis(20));
        }
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        let stopped = || {
            process
                .threads()
                .unwrap()
                .iter()
                .all(|&t| process.thread_wait(t).is_ok_and(|w| w.state == 'T'))
        };
        while !stopped() {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = sampler.futex_waiters();
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(left, 0, "in round {round}");
    }
    let _ = target.finish();
}

/// Switches of the target in half a second: events of the tracepoint, and perf's own count of the
/// same moments, which no program on the tracepoint can touch.
fn perf_counts(pid: u32) -> (u64, u64) {
    let output = Command::new("perf")
        .args(["stat", "-x,", "-e", "sched:sched_switch,context-switches", "-p", &pid.to_string()])
        .args(["sleep", "0.5"])
        .output()
        .expect("perf; run scripts/setup-tests");
    let text = String::from_utf8_lossy(&output.stderr);
    let count = |name: &str| -> u64 {
        let line = text.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{text}"));
        line.split(',').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"))
    };
    (count("sched_switch"), count("context-switches"))
}

/// Other users of the tracepoints see all events while ours are attached: as many as there are
/// switches. The two counters are not switched on at once, hence 2%.
#[test]
fn other_users_of_the_tracepoints_are_not_affected() {
    let target = Target::working(programs::WAITS, &["times"]);
    let mut running =
        Recorder::of(target.pid()).args(["block,mutex", "-d", "60s"]).name_itself().start();
    running.wait_recording();
    let (events, switches) = perf_counts(target.pid());
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().status.code(), Some(0));
    let ratio = events as f64 / switches as f64;
    assert!(switches > 500 && (ratio - 1.0).abs() < 0.02, "{events} events, {switches} switches");
    let _ = target.finish();
}

/// What a process has open of BPF and perf: programs, maps and links, and perf events.
fn kernel_objects(pid: u32) -> (usize, usize) {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let links: Vec<_> = fds.flatten().filter_map(|fd| fd.path().read_link().ok()).collect();
    let count = |part: &str| links.iter().filter(|l| l.to_string_lossy().contains(part)).count();
    (count("bpf"), count("perf_event"))
}

/// Two kinds of a session are made of one set of programs and one ring per CPU, and each is what
/// it is alone.
#[test]
fn block_and_mutex_share_their_attachment() {
    let objects = |kinds: &str, backend: &str| {
        let target = Target::working(programs::WAITS, &["locks"]);
        let mut running = Recorder::of(target.pid())
            .args([kinds, "-d", "60s", "--backend", backend])
            .name_itself()
            .start();
        running.wait_recording();
        let objects = kernel_objects(running.pid());
        running.signal(Signal::SIGINT);
        let outcome = running.finish();
        assert_eq!(outcome.status.code(), Some(0));
        let _ = target.finish();
        (objects, outcome)
    };
    for backend in ["auto", "perf"] {
        let (alone, _) = objects("block", backend);
        let (together, outcome) = objects("block,mutex", backend);
        assert_eq!(together, alone, "programs and events, {backend}");
        assert!(alone.1 > 0 && (alone.0 > 0) == (backend == "auto"), "{alone:?}");
        assert_eq!(outcome.files().len(), 2);
    }
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

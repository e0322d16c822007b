//! Tests of block and mutex profiles of real programs, and that sampling waits does not disturb
//! others.

use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use events::{
    EventKind, WaitOptions, WaitOutputs, WaitSample, WaitSampler, WaitWants, online_cpus,
};
use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::compared::chance_of;
use exoprof_tests::expect::reaches_root;
use exoprof_tests::programs;
use exoprof_tests::server::{Background, mariadb, nginx, open_folder, postgres, redis};
use exoprof_tests::{Outcome, Profile, Recorder, Recording, Sample, Target, gotool};
use nix::sys::signal::Signal;

#[track_caller]
fn assert_whole(profile: &Profile) {
    let whole = profile.sum("delay", reaches_root) as f64 / profile.total("delay") as f64;
    let broken = |s: &Sample| !reaches_root(s);
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

/// Clients that update the same row wait for each other's transactions, in backends that the
/// postmaster forks during the recording and in functions that only its export table names.
#[test]
fn postgres_with_contended_updates() {
    let folder = open_folder();
    let mut postgres = postgres(folder.path());
    let mut running = Recorder::of(postgres.server.pid()).args(["block", "-d", "10m"]).start();
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

/// Updates of one row wait for each other's transactions, in InnoDB's condition variables: in
/// `block`, as much as the server counts itself, and not in `mutex`. Commits of all rows wait for
/// the mutex of the binary log: in `mutex` with who lets go of it.
#[test]
fn mariadb_with_contended_updates() {
    let folder = open_folder();
    let mut mariadb = mariadb(folder.path());
    let update =
        |row: &str| format!("begin; update c set n = n + 1 where id = {row}; do 1; commit");
    let mut own_rows = mariadb.load(6, &update("1 + connection_id() % 9"));
    let status = |name: &str| -> u64 {
        let status = mariadb.ask(&format!("show global status like '{name}'"));
        status.split_whitespace().last().and_then(|n| n.parse().ok()).expect("a number")
    };
    // Milliseconds.
    let waited = || status("Innodb_row_lock_time");
    let read = |outcome: &Outcome, kind: &str| {
        let name = outcome.files().into_iter().find(|n| n.contains(kind)).expect("its file");
        let path = outcome.folder.path().join(name);
        let profile = Profile::decode(&std::fs::read(&path).unwrap());
        assert_whole(&profile);
        (profile, path)
    };
    let pid = mariadb.server.pid();
    let of_rows = || Recorder::of(pid).args(["block,mutex", "-d", "10m"]).name_itself().start();
    // Our sum is an estimate, and a wait for the CPU after the wake-up belongs to the server's count only:
    // 1.02 to 1.04 of it in runs beside other tests.
    Rule { tolerance: 0.08, fault: 0.3, rounds: 12 }.check(|| {
        let mut running = of_rows();
        running.wait_recording();
        // All waits for the row begin and end during the recording, however long the server takes to
        // answer.
        let before = waited();
        let mut one_row = mariadb.load(6, &update("0"));
        one_row.wait_until("recorded", || waited() > before + 15_000);
        one_row.assert_running();
        // Also, waits for rows are most of what is sampled: without them, enough samples are of the
        // log.
        drop(one_row);
        own_rows.wait_until("at rest", || status("Innodb_row_lock_current_waits") == 0);
        let counted = (waited() - before) as f64 * 1e6;
        running.signal(Signal::SIGINT);
        let outcome = running.finish();
        let ((block, _), (mutex, _)) = (read(&outcome, "block"), read(&outcome, "mutex"));
        let condvar = |s: &Sample| s.stack.iter().any(|f| f.function.contains("pthread_cond_"));
        let row = |s: &Sample| {
            s.has("handler::ha_index_read_map") && condvar(s) && s.label("wait") == "futex"
        };
        // Who has one waits no more by a condition variable; a thread that waits for it, or that reads
        // the row, may let go of a mutex on its way, and others may have waited for that.
        let signals = |s: &Sample| {
            let signal = ["pthread_cond_signal", "pthread_cond_broadcast"];
            s.stack.iter().any(|f| signal.iter().any(|name| f.function.contains(name)))
        };
        assert_eq!(mutex.sum("contentions", signals), 0, "{}", mutex.describe(9, signals));
        let for_rows = block.sum("delay", row) as f64;
        (vec![Deviation::ratio("rows", for_rows, counted, chance_of(&block, row))], ())
    });
    // The unlockers are charged what the waiters waited, until they were woken. No wait is in only one of
    // the two but at the ends.
    let outcome = Rule { tolerance: 0.08, fault: 0.3, rounds: 20 }.check(|| {
        let outcome =
            Recorder::of(pid).args(["block,mutex", "-d", "5s"]).name_itself().start().finish();
        let ((block, _), (mutex, _)) = (read(&outcome, "block"), read(&outcome, "mutex"));
        let log = |s: &Sample| s.has("MYSQL_BIN_LOG::trx_group_commit_leader");
        let waits = |s: &Sample| {
            log(s)
                && s.stack.iter().any(|f| f.function.ends_with("pthread_mutex_lock"))
                && s.label("wait") == "futex"
        };
        let (charged, for_log) = (mutex.sum("delay", log), block.sum("delay", waits));
        let sigma = chance_of(&mutex, log).hypot(chance_of(&block, waits));
        (vec![Deviation::ratio("log", charged as f64, for_log as f64, sigma)], outcome)
    });
    for running in [&mut mariadb.server, &mut own_rows] {
        running.assert_running();
    }
    let (_, path) = read(&outcome, "mutex");
    let top = gotool::pprof(&["-top", "-cum"], &path);
    assert!(top.contains("MYSQL_BIN_LOG::trx_group_commit_leader"), "{top}");
    assert!(top.contains("__pthread_mutex_unlock"), "{top}");
}

/// `synchronized`: who leaves a monitor is charged with what `block` sees others wait to enter it. To
/// wait for a condition below it, or to park, is no contention.
#[test]
fn monitors_of_java() {
    let program = exoprof_tests::repository().join("tests/targets/Monitors.java");
    let mut java = Background::start(Command::new("java").arg(program));
    let pid = java.pid();
    java.wait_until("busy", || {
        let names = exoprof_tests::procfs::threads(pid);
        let comm = |tid| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"));
        names.into_iter().any(|tid| comm(tid).is_ok_and(|name| name.trim() == "parker"))
    });
    // Both are estimates of the same waits of 5 ms and more. In the first half second one in two or
    // so is sampled, later each is: 1.2% is one standard deviation of the ratio.
    Rule { tolerance: 0.01, fault: 0.12, rounds: 4 }.check(|| {
        let mut running = Recorder::of(pid).args(["block,mutex", "-d", "4s"]).name_itself().start();
        running.wait_recording();
        let outcome = running.finish();
        java.assert_running();
        let read = |kind: &str| {
            let name = outcome.files().into_iter().find(|n| n.contains(kind)).expect("its file");
            Profile::decode(&std::fs::read(outcome.folder.path().join(name)).unwrap())
        };
        let (block, mutex) = (read("block"), read("mutex"));
        let entering = |s: &Sample| {
            s.has("ObjectMonitor::enter")
                && !s.has("ObjectMonitor::wait")
                && s.label("wait") == "futex"
        };
        let holder = |s: &Sample| s.label("thread").starts_with("holder");
        let of_holders = |keep: &dyn Fn(&Sample) -> bool| {
            block.sum("delay", |s| entering(s) && holder(s) && keep(s)) as f64
        };
        // Of three, one holds it; on a busy machine it is free while the next one waits for a CPU.
        let (waited, all) = (of_holders(&|_| true), 2.0 * block.duration_nanos as f64);
        assert!((0.5..1.05).contains(&(waited / all)), "{waited} of {all} ns");
        // Nobody has ended what has not ended, and that may be much: the one that left the monitor often
        // has it again before the next one runs, so that another waits for as long as a second.
        let ended = |s: &Sample| s.label("in_progress") != "true";
        // Where nobody waits yet, the first one that does looks again by itself after some milliseconds.
        // Then nobody has ended its wait; or somebody has, before that.
        let looks_again =
            |s: &Sample| s.stack.iter().any(|f| f.function.contains("pthread_cond_timedwait"));
        let least = of_holders(&|s| ended(s) && !looks_again(s));
        let most = of_holders(&ended);
        let charged =
            mutex.sum("delay", |s| holder(s) && s.has("ObjectMonitor::ExitEpilog")) as f64;
        let parks = mutex.sum("delay", |s| s.label("thread") == "parker");
        assert_eq!(parks, 0, "{}", mutex.describe(9, |_| true));
        // Whoever waits for a condition first leaves the monitor, which others may be waiting to enter:
        // that is contention. To wait for the condition is not.
        let waits =
            |s: &Sample| s.has("ObjectMonitor::wait") && !s.has("ObjectMonitor::ExitEpilog");
        assert_eq!(mutex.sum("delay", waits), 0, "{}", mutex.describe(9, waits));
        (vec![Deviation::between("holders", charged, (least, most), 0.012)], ())
    });
}

/// The master only waits for a signal; the worker that it forked earlier waits for its clients.
#[test]
fn nginx_waits_in_its_worker() {
    let folder = open_folder();
    let (mut master, port) = nginx(folder.path());
    let url = format!("http://127.0.0.1:{port}/index.html");
    let mut load = Background::start(Command::new("wrk").args(["-t1", "-c8", "-d600s", &url]));
    let worker = exoprof_tests::procfs::children(master.pid())[0];
    load.wait_until("busy", || {
        exoprof_tests::procfs::cpu_by_thread(worker).values().sum::<u64>() > 50_000_000
    });
    let with = block(master.pid(), "2s");
    let without = Recorder::of(master.pid()).args(["block", "-d", "1s", "--no-children"]).run();
    let without = without.recording().profile;
    master.assert_running();
    load.assert_running();
    assert_nothing_lost(&with);
    let profile = &with.profile;
    assert_whole(profile);
    let of = |pid: u32, s: &Sample| s.label("pid") == pid.to_string();
    let polled = profile.sum("contentions", |s| of(worker, s) && s.label("wait") == "poll");
    let slept = profile.sum("contentions", |s| of(worker, s) && s.label("wait") != "runnable");
    assert!(polled > 10 && polled as f64 > 0.9 * slept as f64, "{polled} of {slept}");
    let signals = profile.sum("delay", |s| of(master.pid(), s) && s.label("wait") == "signal");
    assert!(signals > 1_500_000_000, "{signals} ns\n{}", profile.describe(9, |_| true));
    let says = |p: &Profile| p.comments.iter().any(|c| c.contains("1 child process"));
    assert!(says(profile) && !says(&without), "{:?}", profile.comments);
    assert_eq!(without.sum("delay", |s| s.has("ngx_process_events_and_timers")), 0);
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
    // Background threads wait for work all the time: a condition variable is not a lock.
    let mutex = Recorder::of(server.pid()).args(["mutex", "-d", "1s"]).run().recording();
    assert_eq!(mutex.profile.sum("contentions", |s| s.has("bioProcessBackgroundJobs")), 0);
}

/// Without CAP_BPF, but with the rights for perf events and for the target: what is possible is
/// recorded, and the profile says what is missing.
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
    assert!(says("without BPF programs") && says("CAP_BPF"), "{:?}", recording.profile.comments);
    assert!(recording.profile.sum("delay", |s| s.has("sleep_long")) > 0);
    // The target is unaffected.
    let _ = target.finish();
}

fn sampler(options: &WaitOptions) -> (WaitSampler, events::RingSet) {
    let (outputs, rings) = WaitOutputs::open(&online_cpus().unwrap(), options).unwrap();
    let (sampler, _) =
        WaitSampler::attach(outputs, false).expect("bpf programs can be loaded here");
    (sampler, rings)
}

/// With a ring buffer that is much too small, every lost record is counted.
#[test]
fn losses_are_counted() {
    let target = Target::working(programs::BLOCKED, &["100", "1"]);
    let options =
        WaitOptions { children: true, stack_bytes: 8192, ring_bytes: 32 << 10, finest_rate: 1000 };
    let (mut sampler, mut rings) = sampler(&options);
    let process = process::Process::open(target.pid().cast_signed()).unwrap();
    sampler.follow(&[process.as_fd()]).unwrap();
    let wants = WaitWants { waits: true, ..WaitWants::default() };
    sampler.begin(0, 0, wants).unwrap();
    // The ring buffers are not read until they have overflowed.
    let began = Instant::now();
    while sampler.counters().failed < 100 {
        assert!(began.elapsed() < Duration::from_secs(180), "{:?}", sampler.counters());
        std::thread::sleep(Duration::from_millis(10));
    }
    sampler.end().unwrap();
    // A pending sample is written when its thread next runs.
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
    // A sample taken while another was pending is in the same record.
    assert!(counters.emitted + counters.failed <= counters.picked, "{counters:?}");
    assert!(counters.picked - counters.emitted - counters.failed <= 100, "{counters:?}");
    assert!(rings.losses().lost <= counters.failed, "{:?} {counters:?}", rings.losses());
    assert_eq!(rings.losses().malformed, 0);
    let _ = target.finish();
}

/// Time waited before the recording started is charged to no one, however long before that the
/// programs were attached and saw the waiters.
#[test]
fn waits_are_charged_from_the_start_of_the_recording() {
    let me = process::Process::open(std::process::id().cast_signed()).unwrap();
    let lock = std::sync::Mutex::new(());
    let options =
        WaitOptions { children: true, stack_bytes: 1024, ring_bytes: 1 << 20, finest_rate: 1000 };
    let (mut sampler, mut rings) = sampler(&options);
    let futexes = || {
        me.threads().unwrap().into_iter().filter(|t| {
            std::fs::read_to_string(format!("/proc/self/task/{t}/syscall"))
                .is_ok_and(|s| s.starts_with(&format!("{} ", libc::SYS_futex)))
        })
    };
    let idle = futexes().count();
    let (begin, unlocked) = std::thread::scope(|scope| {
        let held = lock.lock().unwrap();
        for _ in 0..2 {
            scope.spawn(|| drop(lock.lock().unwrap()));
        }
        while futexes().count() < idle + 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        sampler.follow(&[me.as_fd()]).unwrap();
        // This wait must not be charged; the one after `begin` must be.
        std::thread::sleep(Duration::from_millis(500));
        let begin = monotonic();
        sampler.begin(begin, 0, WaitWants { wakings: true, ..WaitWants::default() }).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let unlocked = monotonic();
        drop(held);
        (begin, unlocked)
    });
    let ended = monotonic();
    sampler.end().unwrap();
    let mut charged = 0;
    rings.drain(u64::MAX, |e| {
        if let EventKind::Sample(s) = e.kind
            && let Some(WaitSample::Woke(woke)) = WaitSample::parse(s.raw)
        {
            charged += woke.wait.0;
        }
    });
    // Two threads wait; the second one until the first has unlocked, which as a short wait may be
    // scaled up to 10 ms.
    let (least, most) = (2 * (unlocked - begin), 2 * (ended - begin) + 10_000_000);
    assert!((least..=most).contains(&charged), "{charged} of {least} to {most} ns");
}

fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}

/// A waiter that is never removed from the count would be charged to others forever. The race
/// windows are narrow: a thread is woken on one CPU while it goes to sleep on another, or while it
/// is registered for the first time. Stopped threads wait for no futex, so the count must be 0.
#[test]
fn no_waiter_is_left_behind() {
    let target = Target::working(programs::SCRAMBLE, &[]);
    let pid = nix::unistd::Pid::from_raw(target.pid().cast_signed());
    let process = process::Process::open(pid.as_raw()).unwrap();
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
            assert!(began.elapsed() < Duration::from_secs(180), "{:?}", sampler.counters());
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
            assert!(began.elapsed() < Duration::from_secs(180), "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = sampler.futex_waiters();
        nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(left, 0, "in round {round}");
    }
    let _ = target.finish();
}

/// Context switches of the target in half a second: events of the tracepoint, and perf's own count
/// of the same switches, which programs on the tracepoint cannot affect.
fn perf_counts(pid: u32) -> (u64, u64) {
    let output = Command::new("perf")
        .args(["stat", "-x,", "-e", "sched:sched_switch,context-switches", "-p", &pid.to_string()])
        .args(["sleep", "0.5"])
        .env("LC_ALL", "C")
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
/// switches. The two counters do not start at the same moment, hence 2%.
#[test]
fn other_users_of_the_tracepoints_are_not_affected() {
    let target = Target::working(programs::WAITS, &["times"]);
    let mut running =
        Recorder::of(target.pid()).args(["block,mutex", "-d", "10m"]).name_itself().start();
    running.wait_recording();
    let (events, switches) = perf_counts(target.pid());
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().status.code(), Some(0));
    let ratio = events as f64 / switches as f64;
    assert!(switches > 500 && (ratio - 1.0).abs() < 0.02, "{events} events, {switches} switches");
    let _ = target.finish();
}

/// The BPF objects (programs, maps, links) and the perf events that a process has open.
fn kernel_objects(pid: u32) -> (usize, usize) {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let links: Vec<_> = fds.flatten().filter_map(|fd| fd.path().read_link().ok()).collect();
    let count = |part: &str| links.iter().filter(|l| l.to_string_lossy().contains(part)).count();
    (count("bpf"), count("perf_event"))
}

/// Two kinds in one session share one set of programs and one ring buffer per CPU.
#[test]
fn block_and_mutex_share_their_attachment() {
    let objects = |kinds: &str, backend: &str| {
        let target = Target::working(programs::WAITS, &["locks"]);
        let mut running = Recorder::of(target.pid())
            .args([kinds, "-d", "10m", "--backend", backend])
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

/// When exoprof is killed, the kernel removes everything, the target continues, and another
/// recording works.
#[test]
fn killed_in_the_middle() {
    let mut target = Target::working(programs::WAITS, &["times"]);
    let mut running = Recorder::of(target.pid()).args(["block", "-d", "10m"]).start();
    running.wait_recording();
    running.signal(Signal::SIGKILL);
    let _ = running.finish();
    let before = target.mark();
    let profile: Profile = block(target.pid(), "1s").profile.clone();
    assert!(target.mark().since(&before).ns("sleep_long_n") > 20);
    assert!(profile.sum("delay", |s| s.has("sleep_long")) > 0);
    let _ = target.finish();
}

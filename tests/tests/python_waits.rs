//! Tests of block and mutex profiles of Python programs, by the waiting functions, in every
//! installed version.

use std::process::Command;

use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::compared::{Compared, account};
use exoprof_tests::expect::{assert_roots, reaches_root};
use exoprof_tests::http::Server;
use exoprof_tests::python::{Interpreter, in_python, interpreters, last_name};
use exoprof_tests::{Profile, Recorder, Sample, Target, procfs, repository};
use nix::sys::signal::Signal;

const SCRIPT: &str = "pywaits.py";
const SITES: [&str; 4] = ["sleep_long", "receive", "acquire", "wait_for_change"];

/// The line number of the script's line that ends with this text.
fn line_ending_with(text: &str) -> i64 {
    let script = std::fs::read_to_string(repository().join("tests/targets").join(SCRIPT)).unwrap();
    let line = script.lines().position(|l| l.ends_with(text)).expect("a line with this end");
    i64::try_from(line).unwrap() + 1
}

/// Of the delay of the samples that satisfy `of`, the share that also satisfies `right`.
fn share(profile: &Profile, of: impl Fn(&Sample) -> bool, right: impl Fn(&Sample) -> bool) -> f64 {
    let all = profile.sum("delay", &of);
    assert!(all > 0, "{}", profile.describe(8, |_| true));
    profile.sum("delay", |s| of(s) && right(s)) as f64 / all as f64
}

/// Asserts that a site's Python stacks are complete, down to the thread's start, and wait in the
/// right line.
#[track_caller]
fn assert_site(profile: &Profile, site: &str, name: &str) {
    let line = line_ending_with(&format!("waits in {site}"));
    let right = |s: &Sample| {
        let names: Vec<_> = in_python(s).map(last_name).collect();
        let at = names.iter().position(|n| *n == site).unwrap_or_default();
        let frame = in_python(s).nth(at).expect("a frame");
        let inner = if site == "wait_for_change" { &["wait"][..] } else { &[] };
        let outer = &names[at + 1..];
        frame.line == line
            && names[..at] == *inner
            && matches!(outer, ["repeat", "run", "_bootstrap_inner" | "_bootstrap", ..])
    };
    // On its way into and out of the site, a thread may also wait for the GIL.
    let share = share(profile, |s| s.has(site), right);
    let wrong = || profile.describe(6, |s| s.has(site) && !right(s));
    assert!(share > 0.97, "{name}: {share:.3} of {site} are right:\n{}", wrong());
}

fn says(profile: &Profile, words: &str) -> bool {
    profile.comments.iter().any(|c| c.contains(words))
}

/// Asserts that no Python frames are missing. Where other processes have the CPUs, the frames of one
/// sample in hundreds may be overtaken by the next ones.
#[track_caller]
fn assert_nothing_missing(profile: &Profile, name: &str) {
    const LATE: &str = "Python samples without Python frames (frames did not arrive): ";
    let late = profile.comments.iter().find_map(|c| c.strip_prefix(LATE)?.parse::<u64>().ok());
    assert!(late.unwrap_or(0) * 300 <= account(profile).0, "{name}: {:#?}", profile.comments);
    for words in
        ["no Python frames", "without Python frames", "without the functions", "buffer was full"]
    {
        let missing = |c: &String| c.contains(words) && !c.starts_with(LATE);
        assert!(!profile.comments.iter().any(missing), "{name}: {:#?}", profile.comments);
    }
}

/// All waits are longer than the rate, so only the partial ones at both ends are subject to chance:
/// one of 20 ms in 3 s. A thread that waits for another thread also waits for its turn, which
/// varies on a busy machine.
const RULE: Rule = Rule { tolerance: 0.05, fault: 0.1, rounds: 12 };

#[test]
fn every_version() {
    for python in interpreters() {
        let name = python.to_string();
        let args = ["block", "--block-rate", "1ms"];
        let compared = RULE.check(|| {
            let compared = Compared::of_command(python.command(SCRIPT, &[]), (3.0, &args));
            (SITES.map(|site| compared.delay(site)).into(), compared)
        });
        let profile = &compared.profile;
        for site in SITES {
            assert_site(profile, site, &name);
        }
        assert_nothing_missing(profile, &name);
        let loops = |s: &Sample| s.stack.iter().any(|f| f.function.contains("EvalFrameDefault"));
        let left = profile.sum("delay", loops) as f64 / profile.total("delay") as f64;
        assert!(left < 0.01, "{name}: {left:.4}: {}", profile.describe(4, loops));
        let whole = profile.sum("delay", reaches_root) as f64 / profile.total("delay") as f64;
        assert!(whole > 0.99, "{name}: {}", profile.describe(4, |s| !reaches_root(s)));
        // A wait that has not ended has lasted as long as the recording.
        let line = line_ending_with("waits in wait_for_ever");
        let forever = |s: &Sample| {
            s.label("in_progress") == "true"
                && in_python(s).next().is_some_and(|f| f.is("wait_for_ever") && f.line == line)
        };
        let ratio = profile.sum("delay", forever) as f64 / profile.duration_nanos as f64;
        assert!((ratio - 1.0).abs() < 0.02, "{name}: {ratio}: {}", profile.describe(9, |_| true));
    }
}

/// A mutex of the C library: once with the stack of the thread that unlocked it, once with those of
/// the waiting threads. Other futex waits are left out, such as those for Python's own locks, which
/// are semaphores, and for its GIL, which is a condition variable.
#[test]
fn mutexes() {
    for python in interpreters().iter().filter(|p| p.is_complete()) {
        let name = python.to_string();
        let line = line_ending_with("unlocks in hold_native");
        let holder = |s: &Sample| {
            in_python(s).next().is_some_and(|f| last_name(f) == "hold_native" && f.line == line)
        };
        assert_mutex(python, &["mutex"], &name, holder);
        let waiter =
            |s: &Sample| in_python(s).next().is_some_and(|f| last_name(f) == "lock_native");
        assert_mutex(python, &["mutex", "--waiters"], &name, waiter);
    }
}

/// Asserts the delay of the samples that satisfy `right`, which are nearly all.
#[track_caller]
fn assert_mutex(python: &Interpreter, kinds: &[&str], name: &str, right: impl Fn(&Sample) -> bool) {
    let args = [kinds, &["--block-rate", "1ms"]].concat();
    let rule = Rule { tolerance: 0.05, fault: 0.15, rounds: 12 };
    let profile = rule.check(|| {
        let compared = Compared::of_command(python.command(SCRIPT, &["locks"]), (3.0, &args));
        // The wait ends when it is woken; the script counts until it runs and has the GIL again.
        let most = compared.truth(&["lock_native"]);
        let bounds = (0.95 * (most - compared.truth(&["lock_native_run"])), most);
        let delay = compared.measured("delay", &right);
        let what = format!("{name}: {}", kinds.join(" "));
        (vec![Deviation::between(&what, delay, bounds, compared.chance(&right))], compared.profile)
    });
    let rest = 1.0 - share(&profile, |_| true, &right);
    assert!(rest < 0.05, "{name}: {rest}: {}", profile.describe(9, |s| !right(s)));
    assert_nothing_missing(&profile, name);
}

/// Unwinding of waits and of CPU samples must not interfere.
#[test]
fn together_with_cpu() {
    let python = &interpreters()[0];
    let waits = python.start(SCRIPT, &["locks"]);
    let burns = python.start("pyshares.py", &[]);
    let pids = [waits.pid().to_string(), burns.pid().to_string()];
    let mut running = Recorder::new()
        .args(["cpu,block,mutex", "-p", &pids[0], "-p", &pids[1], "-d", "10m", "-F", "997"])
        .name_itself()
        .start();
    running.wait_recording();
    running.wait_used(burns.pid(), 2.0);
    running.signal(Signal::SIGINT);
    let outcome = running.finish();
    let profile = |kind: &str| {
        let name = outcome.files().into_iter().find(|n| n.contains(kind)).expect("its file");
        Profile::decode(&std::fs::read(outcome.folder.path().join(name)).unwrap())
    };
    let (cpu, block, mutex) = (profile("cpu"), profile("block"), profile("mutex"));
    assert_roots(&cpu, 0.98);
    let of_burns = |s: &Sample| s.label("pid") == pids[1];
    let heavy = |s: &Sample| in_python(s).any(|f| last_name(f).starts_with("heavy_"));
    let all = cpu.sum("samples", of_burns);
    let named = cpu.sum("samples", |s| of_burns(s) && heavy(s)) as f64 / all as f64;
    assert!(all > 100 && named > 0.95, "{named} of {all}: {}", cpu.describe(6, |s| !heavy(s)));
    for site in SITES {
        assert_site(&block, site, "with cpu");
    }
    let holder =
        |s: &Sample| s.has("hold_native") || in_python(s).any(|f| last_name(f) == "hold_native");
    assert!(share(&mutex, |_| true, holder) > 0.9, "{}", mutex.describe(6, |_| true));
    for profile in [&cpu, &block, &mutex] {
        assert_nothing_missing(profile, "with cpu");
    }
}

/// A child forked during the recording, and a command started by exoprof.
#[test]
fn children_and_commands() {
    let python = &interpreters()[0];
    let mut target = python.start(SCRIPT, &[]);
    let mut running = Recorder::of(target.pid()).args(["block", "-d", "10m"]).start();
    running.wait_recording();
    target.send("fork");
    let child = loop {
        if let [child] = procfs::children(target.pid())[..] {
            break child;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    // The length of the measurement.
    std::thread::sleep(std::time::Duration::from_secs(2));
    running.signal(Signal::SIGINT);
    let recording = running.finish().recording();
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
    let of_child = |s: &Sample| s.label("pid") == child.to_string();
    for site in SITES {
        let right = |s: &Sample| s.has(site);
        assert!(recording.profile.sum("delay", |s| of_child(s) && right(s)) > 0, "{site}");
    }
    // In the first 20 to 40 ms the child is not known as an interpreter.
    let named = share(&recording.profile, of_child, |s| in_python(s).next().is_some());
    assert!(named > 0.9, "{named}: {}", recording.profile.describe(9, of_child));
    let _ = target.finish();

    let script = "import time\ndef rest(): time.sleep(0.05)\nfor _ in range(40): rest()\n";
    let recording = Recorder::new()
        .args(["block", "-d", "10m"])
        .command(&["/usr/bin/python3", "-c", script])
        .run()
        .recording();
    let rest = recording.profile.sum("delay", |s| s.has("rest"));
    assert!(rest > 1_800_000_000, "{rest}: {}", recording.profile.describe(9, |_| true));
}

/// A process becomes an interpreter when wait programs without Python support are already attached:
/// its waits have the interpreter's frames, and the profile says so. Waits still in progress at the
/// end have Python functions.
#[test]
fn an_interpreter_that_starts_late() {
    let python = interpreters()[0].command(SCRIPT, &[]);
    let words: Vec<_> =
        python.get_args().skip(1).map(|w| w.to_string_lossy().into_owned()).collect();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("echo ready; read line; exec {}", words.join(" "))]);
    let mut target = Target::spawn_command(shell);
    let mut running = Recorder::of(target.pid()).args(["block", "-d", "10m"]).start();
    running.wait_recording();
    target.send("");
    target.expect("ready");
    target.go(0);
    while target.mark().total() < 1_000_000_000 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    assert!(
        says(&profile, "no interpreter was running when the recording attached"),
        "{:#?}",
        profile.comments
    );
    let forever = |s: &Sample| s.label("in_progress") == "true" && s.has("wait_for_ever");
    assert!(profile.sum("delay", forever) > 0, "{}", profile.describe(9, |_| true));
    let _ = target.finish();
}

#[test]
fn served_over_http() {
    let target = interpreters()[0].start(SCRIPT, &["locks"]);
    let server = Server::of(target.pid());
    let block = server.get("/debug/pprof/block?seconds=2");
    let block = Profile::decode(&block.body);
    for site in SITES {
        assert_site(&block, site, "serve");
    }
    let mutex = server.get("/debug/pprof/mutex?seconds=1");
    let mutex = Profile::decode(&mutex.body);
    let holder = |s: &Sample| in_python(s).any(|f| last_name(f) == "hold_native");
    assert!(share(&mutex, |_| true, holder) > 0.9, "{}", mutex.describe(6, |_| true));
    let _ = target.finish();
}

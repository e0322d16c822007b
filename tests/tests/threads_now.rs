//! Tests of the current threads of native programs (`dump`, `goroutine`, `threadcreate`), of
//! recordings that stop threads (`wall`, `cpu --backend ptrace`), and of what `doctor` reports
//! about all of them.

use std::ffi::OsStr;
use std::process::{Command, Output};

use exoprof_tests::expect::{assert_close, reaches_root};
use exoprof_tests::procfs::{self, State};
use exoprof_tests::{Recorder, Target, exoprof, programs};
use nix::sys::signal::Signal;
use process::{Process, Threads, Tracer};

const IDLERS: usize = 20;

fn locks() -> Target {
    Target::spawn(programs::LOCKS, &[&IDLERS.to_string()])
}

fn run(args: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = exoprof().args(args).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{args:?}: {stderr}");
    (String::from_utf8(stdout).unwrap(), stderr)
}

/// The part of a dump that describes one thread.
fn section<'a>(text: &'a str, tid: &str) -> &'a str {
    let header = format!("goroutine {tid} [");
    let found = text.split("\n\n").find(|s| s.starts_with(&header));
    found.unwrap_or_else(|| panic!("no thread {tid} in:\n{text}"))
}

/// The names of the program's own functions in a stack, innermost first.
fn own_functions(names: impl Iterator<Item = String>) -> Vec<String> {
    let own = ["main", "first", "second", "queued", "holder", "wait_for", "idle", "idler"];
    names.filter(|n| own.contains(&n.as_str())).collect()
}

#[test]
fn a_dump_has_each_threads_state_and_the_lock_it_waits_for() {
    let target = locks();
    let pid = target.pid().to_string();
    let before = State::of(target.pid());
    let (text, stderr) = run(&["dump", "-p", &pid]);
    assert_eq!(State::of(target.pid()), before);
    let headers = text.lines().filter(|l| l.starts_with("goroutine ")).count();
    assert_eq!(headers, 5 + IDLERS, "{text}");
    let tid = |name: &str| target.given(name).to_owned();
    let first = section(&text, &tid("first"));
    assert!(first.contains("[futex wait, thread first]:\n"), "{first}");
    assert!(first.contains("\nwait_for(...)\n\t") && first.contains("locks.c:"), "{first}");
    let holds = |whose: &str, owner: &str| {
        let text = section(&text, &tid(whose));
        assert!(text.contains(&format!("held by thread {} ({owner})", tid(owner))), "{text}");
    };
    holds("first", "second");
    holds("second", "first");
    holds("queued", "holder");
    assert!(section(&text, &tid("holder")).contains("nanosleep"), "{text}");
    assert!(!section(&text, &tid("holder")).contains("waits for"), "{text}");
    for output in [&text, &stderr] {
        let line = output.lines().find(|l| l.contains("deadlock: ")).expect("a deadlock");
        assert!(line.contains("(first)") && line.contains("(second)"), "{line}");
        assert!(!line.contains("queued"), "queued is not part of the deadlock: {line}");
    }
}

/// Compares with gdb's stacks of the same threads, but only the program's own functions: in libc
/// the two name aliases and inlined calls differently.
#[test]
fn gdb_sees_the_same_stacks() {
    let target = locks();
    let pid = target.pid().to_string();
    let (ours, _) = run(&["dump", "-p", &pid]);
    let gdb = Command::new("gdb")
        .args(["-batch", "-nx", "-p", &pid, "-ex", "thread apply all bt"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let gdb = String::from_utf8_lossy(&gdb.stdout).into_owned();
    let mut compared = 0;
    for part in gdb.split("\nThread ").skip(1) {
        let tid = part.split("LWP ").nth(1).and_then(|s| s.split([')', ' ']).next()).unwrap();
        let frames = part.lines().filter(|l| l.starts_with('#'));
        // `#1  0x… in wait_for (mutex=…) at …`, or without the address for an inlined call.
        let function = |l: &str| {
            let rest = l.split_once(" in ").map_or_else(|| l[3..].trim_start(), |(_, r)| r);
            rest.split_whitespace().next().unwrap_or_default().to_owned()
        };
        let theirs = own_functions(frames.map(function));
        let lines = section(&ours, tid).lines().skip(1);
        let named = lines.filter_map(|l| Some(l.split_once("(...)")?.0.to_owned()));
        assert_eq!(own_functions(named), theirs, "thread {tid}:\n{part}");
        assert!(!theirs.is_empty(), "{part}");
        compared += 1;
    }
    assert_eq!(compared, 5 + IDLERS, "{gdb}");
}

#[test]
fn equal_stacks_are_grouped_and_the_profile_counts_them() {
    let target = locks();
    let pid = target.pid().to_string();
    let (text, _) = run(&["dump", "--group", "-p", &pid]);
    assert!(text.starts_with(&format!("goroutine profile: total {}\n", 5 + IDLERS)), "{text}");
    assert!(text.contains(&format!("\n{IDLERS} @ 0x")), "{text}");
    let profile = Recorder::of(target.pid()).args(["goroutine"]).run().recording().profile;
    assert_eq!(profile.total("goroutine"), 5 + IDLERS as i64);
    assert_eq!(profile.sum("goroutine", |s| s.has("idle")), IDLERS as i64);
    let states = profile.by_label("goroutine", "state");
    // The state of the main thread: poll, or restart_syscall after the dump.
    assert!(states.keys().any(|s| s.contains("poll")), "{states:?}");
    assert_eq!(states["futex wait"], 3 + IDLERS as i64);
    assert_eq!(profile.by_label("goroutine", "thread")["idler"], IDLERS as i64);
}

#[test]
fn threadcreate_has_creators_and_start_functions() {
    let mut target = locks();
    let mut running = Recorder::of(target.pid()).args(["threadcreate", "-d", "10m"]).start();
    running.wait_recording();
    for _ in 0..3 {
        target.go(1);
        target.wait_done();
    }
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    let created = profile.sum("threadcreate", |s| s.has("create_here") && s.has("main"));
    assert_eq!(created, 3, "{}", profile.describe(9, |_| true));
    let existing = |name| profile.sum("threadcreate", |s| s.leaf().is(name));
    assert_eq!(existing("idler"), IDLERS as i64, "{}", profile.describe(9, |_| true));
    assert_eq!(["first", "second", "queued", "holder"].map(existing), [1; 4]);
    assert_eq!(profile.total("threadcreate"), 3 + 4 + IDLERS as i64);
}

/// Every thread has its full time in the profile, wherever it waits.
#[test]
fn the_wall_clock_counts_all_threads() {
    let target = locks();
    let profile = Recorder::of(target.pid()).args(["wall", "-d", "4s"]).run().recording().profile;
    let threads = 5.0 + IDLERS as f64;
    let whole = profile.duration_nanos as f64 * threads;
    // The time before the first tick and after the last one is not recorded.
    assert_close("wall time", profile.total("wall") as f64, whole, 0.05);
    let idle = profile.sum("wall", |s| s.has("idle")) as f64;
    assert_close("share of idlers", idle / whole, IDLERS as f64 / threads, 0.05);
    assert_eq!(profile.by_label("wall", "state").keys().collect::<Vec<_>>(), ["sleeping"]);
}

/// If perf_event_open is blocked, the ptrace backend is chosen automatically, and the profile says
/// so.
#[test]
fn cpu_by_ptrace_where_perf_events_are_blocked() {
    let mut target = Target::working(programs::SHARES, &[]);
    let before = State::of(target.pid());
    let noperf = programs::NOPERF.path();
    let mut running = Recorder::launched_by(&[noperf.as_os_str()])
        .args(["-p", &target.pid().to_string(), "-d", "10m", "-F", "499"])
        .start();
    running.wait_waiting();
    let start = target.mark();
    running.wait_used(target.pid(), 3.0);
    let truth = target.mark().since(&start);
    running.signal(Signal::SIGINT);
    let recording = running.finish().recording();
    assert_eq!(State::of(target.pid()), before);
    let profile = recording.profile;
    let says = |what: &str| profile.comments.iter().any(|c| c.contains(what));
    assert!(
        says("backend: ptrace") && says("perf events cannot be used"),
        "{:?}",
        profile.comments
    );
    assert!(says("threads were stopped"), "{:?}", profile.comments);
    // They differ by the CPU time between the marks and the recording's start and end.
    let (cpu, all) = (profile.total("cpu") as f64, truth.total() as f64);
    assert!((0.8..1.2).contains(&(cpu / all)), "{cpu} of {all}");
    let whole = profile.sum("cpu", |s| s.has("main"));
    assert!(whole as f64 > 0.97 * cpu, "{}", profile.describe(6, |s| !s.has("main")));
    let samples = profile.total("samples") as f64;
    for site in ["heavy_a", "heavy_b", "heavy_c", "heavy_d"] {
        let share = profile.sum("cpu", |s| s.has(site)) as f64 / cpu;
        // Four standard deviations, plus the target's slices.
        let allowed = 4.0 * (0.25 / samples).sqrt() + 0.03;
        let off = (share - truth.share(site)).abs();
        assert!(off <= allowed, "{site}: {share} of {}, {samples} samples", truth.share(site));
    }
}

#[test]
fn the_ptrace_backend_can_be_selected_and_profiles_a_command() {
    let shares = programs::SHARES.path();
    let outcome = Recorder::new()
        .args(["--backend", "ptrace", "-d", "1s"])
        .command(&["sh", "-c", &format!("(echo go 0; sleep 2) | {}", shares.display())])
        .run();
    assert!(outcome.status.success(), "{outcome}");
}

#[test]
fn doctor_reports_each_kind_with_its_fix() {
    let target = locks();
    let (text, _) = run(&["doctor", "-p", &target.pid().to_string()]);
    let verdict = |text: &str, kind: &str| {
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(kind));
        let line = line.unwrap_or_else(|| panic!("no {kind} in {text}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for kind in ["cpu", "wall", "block", "mutex", "goroutine", "threadcreate"] {
        assert_eq!(verdict(&text, kind), "yes", "{kind}:\n{text}");
    }
    // Only Go's allocator keeps records, and this is not a Go program.
    for kind in ["heap", "allocs"] {
        assert_eq!(verdict(&text, kind), "no", "{kind}:\n{text}");
    }
    let (text, _) = run(&["doctor"]);
    assert_eq!(verdict(&text, "heap"), "yes", "{text}");
    // As nobody, nothing of root's process can be recorded; the fix is printed.
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let out = Command::new("setpriv")
        .args(nobody)
        .arg(exoprof_tests::recorder::binary())
        .args([OsStr::new("doctor"), OsStr::new("-p"), OsStr::new(&target.pid().to_string())])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let at = text.lines().position(|l| l.starts_with("goroutine ")).expect("a line of its own");
    assert!(text.lines().nth(at).unwrap().contains(" no "), "{text}");
    assert!(text.lines().nth(at + 1).unwrap().contains("fix: sudo setcap"), "{text}");
    // Without BPF, some kinds are still available.
    let out = Command::new("setpriv")
        .args(["--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"])
        .arg(exoprof_tests::recorder::binary())
        .args(["doctor", "-p", &target.pid().to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(verdict(&text, "block"), "yes", "{text}");
    assert!(
        text.contains("perf events, without the unlocking thread (BPF programs require CAP_BPF"),
        "{text}"
    );
    // A process traced by another tool can be sampled but not stopped.
    let pid = target.pid();
    let process = Process::open(pid.cast_signed()).unwrap();
    let traced = Tracer::run(|tracer| {
        let _seized = tracer.seize(&process, Threads::All).unwrap();
        run(&["doctor", "-p", &pid.to_string()])
    });
    let (text, _) = traced.unwrap();
    assert_eq!(
        (verdict(&text, "cpu"), verdict(&text, "wall")),
        ("yes".into(), "no".into()),
        "{text}"
    );
    // Nothing can be recorded of a process that has ended.
    let mut ended = Command::new("true").spawn().unwrap();
    while procfs::status(ended.id(), "State").starts_with(['R', 'S', 'D']) {
        std::thread::yield_now();
    }
    let (text, _) = run(&["doctor", "-p", &ended.id().to_string()]);
    for kind in ["cpu", "wall", "block", "goroutine", "threadcreate"] {
        assert_eq!(verdict(&text, kind), "no", "{kind}:\n{text}");
    }
    ended.wait().unwrap();
}

#[test]
fn several_kinds_and_processes_at_once() {
    let (one, two) = (locks(), locks());
    let folder = tempfile::tempdir().unwrap();
    let pids = [one.pid().to_string(), two.pid().to_string()];
    // The directory need not exist.
    let path = folder.path().join("of/today");
    let path = path.to_str().unwrap();
    let types = "cpu,wall,goroutine,threadcreate";
    let (_, stderr) =
        run(&["record", types, "-p", &pids[0], "-p", &pids[1], "-d", "1", "-o", path]);
    let files: Vec<_> = std::fs::read_dir(path).unwrap().flatten().map(|e| e.path()).collect();
    assert_eq!(files.len(), 4, "{files:?}\n{stderr}");
    let of = |kind: &str| {
        let file = files.iter().find(|f| f.to_str().unwrap().contains(kind)).unwrap();
        exoprof_tests::Profile::decode(&std::fs::read(file).unwrap())
    };
    let goroutine = of("goroutine");
    let by_pid = goroutine.by_label("goroutine", "pid");
    assert_eq!(by_pid, pids.iter().map(|p| (p.clone(), 5 + IDLERS as i64)).collect());
    let says: Vec<_> = goroutine.comments.iter().filter(|c| c.contains("were stopped")).collect();
    assert!(says.len() == 1 && says[0].contains("of 2 processes"), "{says:?}");
    for target in [&one, &two] {
        assert!(State::of(target.pid()).is_free());
        assert_eq!(procfs::threads(target.pid()).len(), 5 + IDLERS);
    }
}

/// The same as with a stop: all threads, with complete stacks, states, the locks they wait for and
/// deadlocks.
#[test]
fn without_a_stop_waiting_threads_are_the_same() {
    let target = locks();
    let pid = target.pid().to_string();
    let before = State::of(target.pid());
    let (mut text, mut stderr) = (String::new(), String::new());
    // Idlers may not have reached their wait yet.
    while text.matches("\nidle(...)").count() < IDLERS {
        (text, stderr) = run(&["dump", "-p", &pid, "--no-stop"]);
    }
    assert_eq!(State::of(target.pid()), before);
    // Not earlier: a stop interrupts sleeps, which then continue under another name.
    let (stopped, _) = run(&["dump", "-p", &pid]);
    assert!(stderr.contains("no thread was stopped"), "{stderr}");
    assert!(!stderr.contains("were stopped"), "{stderr}");
    let sections = |text: &str| {
        let sections = text.split("\n\n").map(|s| s.trim_end().to_owned());
        sections.collect::<Vec<_>>()
    };
    for (ours, theirs) in sections(&text).into_iter().zip(sections(&stopped)) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(sections(&text).len(), 5 + IDLERS + 1, "a deadlock is reported, too");
    let profile =
        Recorder::of(target.pid()).args(["goroutine", "--no-stop"]).run().recording().profile;
    assert_eq!(profile.total("goroutine"), 5 + IDLERS as i64);
    assert!(profile.samples.iter().all(reaches_root), "{}", profile.describe(9, |_| true));
    let says = |what: &str| profile.comments.iter().any(|c| c.contains(what));
    assert!(says("backend: bpf task iterator") && says("no thread was stopped"));
    let mut running =
        Recorder::of(target.pid()).args(["threadcreate", "--no-stop", "-d", "10m"]).start();
    running.wait_recording();
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    assert_eq!(profile.sum("threadcreate", |s| s.leaf().is("idler")), IDLERS as i64);
    assert!(profile.comments.iter().any(|c| c.contains("no thread was stopped")));
}

/// Threads that run all the time: no stack mixes two moments, and the program notices nothing. A
/// stop would be noticed: it makes the program's waits fail, as the kernel does not restart them.
#[test]
fn without_a_stop_no_wait_is_interrupted_and_no_stack_is_torn() {
    const THREADS: i64 = 4;
    let mut target = Target::working(programs::RESTLESS, &[&THREADS.to_string()]);
    let begin = target.mark();
    let (mut left, mut right) = (0, 0);
    for _ in 0..40 {
        let recording = Recorder::of(target.pid()).args(["goroutine", "--no-stop"]).run();
        let profile = recording.recording().profile;
        assert_eq!(profile.total("goroutine"), THREADS + 1);
        for s in &profile.samples {
            let ran = s.stack.iter().any(|f| f.function.contains("running at every attempt"));
            assert!(ran || reaches_root(s), "{s}");
            let (to_left, to_right) = (s.has("left"), s.has("right"));
            assert!(!(to_left && to_right), "{s}");
            assert!(!s.has("left_leaf") || to_left, "{s}");
            assert!(!s.has("right_leaf") || to_right, "{s}");
            left += i64::from(to_left);
            right += i64::from(to_right);
        }
    }
    assert!(left > 20 && right > 20, "{left} stacks to the left, {right} to the right");
    let truth = target.mark().since(&begin);
    assert!(truth.ns("waits") > 1000, "{truth:?}");
    assert_eq!(truth.ns("eintr"), 0, "{truth:?}");
    let before = target.mark();
    for _ in 0..10 {
        run(&["dump", "-p", &target.pid().to_string()]);
    }
    let interrupted = target.mark().since(&before).ns("eintr");
    assert!(interrupted > 0, "stops interrupt no wait, so the test above proves nothing");
}

/// A stack larger than the kernel-side copy is read from memory, and confirmed unchanged at the
/// next pass.
#[test]
fn without_a_stop_deep_stacks_are_whole() {
    let target = Target::spawn(programs::DEEP_SLEEP, &[]);
    let stack = |args: &[&str]| {
        let outcome = Recorder::of(target.pid()).args(["goroutine"]).args(args).run();
        let profile = outcome.recording().profile;
        assert_eq!(profile.total("goroutine"), 1);
        profile.samples[0].clone()
    };
    let (mut ours, theirs) = (stack(&["--no-stop"]), stack(&[]));
    // It may not have reached the bottom yet.
    for _ in 0..50 {
        if ours.stack.len() < theirs.stack.len() {
            ours = stack(&["--no-stop"]);
        }
    }
    assert!(reaches_root(&ours), "{ours}");
    assert_eq!(ours.stack.iter().filter(|f| f.is("down")).count(), 301);
    assert_eq!(ours.stack.len(), theirs.stack.len());
}

/// Thousands of passes: wherever a thread waits, its copied stack must equal what the program wrote
/// there before that wait, bit by bit. A copy that began too early or ended too late, or with
/// registers of an earlier wait, would be a mixture.
#[test]
fn without_a_stop_copies_are_of_one_moment() {
    let target = Target::working(programs::RESTLESS, &["4"]);
    let mut copier = events::StackCopier::open().expect("bpf programs can be loaded here");
    let (mut copies, mut ran) = (0, 0);
    for _ in 0..4000 {
        let looked = copier.look(target.pid().cast_signed(), |look| match look.what {
            events::CopyResult::Copied(copy) if copy.call.is_some_and(|c| c.0 == EPOLL_PWAIT2) => {
                copies += 1;
                let room = room(copy.stack).expect("a mark of the program");
                assert!(room.iter().all(|b| *b == room[0]), "torn: {room:?}");
            }
            events::CopyResult::Runs => ran += 1,
            events::CopyResult::Copied(_) | events::CopyResult::Same => {}
        });
        looked.unwrap();
    }
    assert!(copies > 1000 && ran > 10, "{copies} copies, {ran} times a thread ran");
}

/// The system call that `restless.c` waits in, the same on all architectures.
const EPOLL_PWAIT2: u32 = 441;

/// What a thread of `restless.c` has put on its stack, after the mark.
fn room(stack: &[u8]) -> Option<&[u8]> {
    let rooms = [(0x6c65_6674_726f_6f6d_u64, 96), (0x7269_6768_726f_6f6d, 1504)];
    let mut words = stack.chunks_exact(8).take(32).enumerate();
    words.find_map(|(i, word)| {
        let word = u64::from_le_bytes(word.try_into().ok()?);
        let (_, size) = rooms.iter().find(|(mark, _)| *mark == word)?;
        // The last byte is written when the wait is over.
        stack.get(i * 8 + 8..i * 8 + size - 1)
    })
}

/// A thread that has a CPU for itself is listed by name, without an invented stack. The scheduler
/// suspends real-time threads for a twentieth of each second; then it is sampled.
#[test]
fn without_a_stop_a_thread_that_never_sleeps_is_listed() {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "1"]).arg(programs::SHARES.path());
    let mut target = Target::spawn_command(command);
    target.go(0);
    let pid = target.pid().to_string();
    let mut listed = false;
    for _ in 0..20 {
        let (text, stderr) = run(&["dump", "-p", &pid, "--no-stop"]);
        let section = section(&text, &pid);
        if section.contains("[no stack: running at every attempt]") {
            let note = stderr.lines().find(|l| l.contains("1 thread was running at each of"));
            let note = note.unwrap_or_else(|| panic!("{stderr}"));
            assert!(note.contains(&format!("shares ({pid})")), "{note}");
            assert!(section.contains("[running, thread shares]"), "{section}");
            listed = true;
            break;
        }
        assert!(section.contains("main(...)"), "{text}");
    }
    assert!(listed, "it was found off the CPU each time");
}

/// With `--no-stop` no thread is ever stopped: what would need a stop fails, with a hint.
#[test]
fn without_a_stop_what_needs_one_fails() {
    let target = locks();
    let pid = target.pid().to_string();
    let error_of = |command: &mut Command| {
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pb.gz");
    let file = file.to_str().unwrap();
    let wall = ["record", "wall", "-p", &pid, "-d", "1s", "-o", file, "--no-stop"];
    assert!(error_of(exoprof().args(wall)).contains("which --no-stop forbids"));
    let without_bpf = ["--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"];
    let mut command = Command::new("setpriv");
    command.args(without_bpf).arg(exoprof_tests::recorder::binary());
    let said = error_of(command.args(["dump", "-p", &pid, "--no-stop"]));
    assert!(said.contains("CAP_BPF") && said.contains("fix: sudo setcap"), "{said}");
    assert!(State::of(target.pid()).is_free());
}

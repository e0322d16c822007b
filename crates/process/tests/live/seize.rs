use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use image::Memory as _;
use process::seize::{NoRegisters, Stop};
use process::{Process, SeizeError, Threads, Tracer};

use crate::support::{Target, as_nobody};

/// Compiles a program from `tests/programs`. They are small enough to compile each time.
fn program(name: &str, dir: &std::path::Path) -> PathBuf {
    let source = format!("{}/tests/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let path = dir.join(name);
    let flags = ["-O1", "-g", "-Wall", "-Werror", "-pthread", "-o"];
    let built = Command::new("gcc").args(flags).arg(&path).arg(source).status().unwrap();
    assert!(built.success());
    path
}

/// Threads that count in memory, sleep in system calls, and handle signals.
struct Busy {
    target: Target,
    _dir: tempfile::TempDir,
}

impl Busy {
    fn start(threads: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut target =
            Target::start(Command::new(program("busy", dir.path())).arg(threads.to_string()));
        assert_eq!(target.line(), "ready");
        Self { target, _dir: dir }
    }

    /// Requests the program's counters: progress of the counting threads, handled signals,
    /// interrupted system calls.
    fn ask(&mut self) -> [u64; 3] {
        self.target.child.stdin.as_mut().unwrap().write_all(b"?\n").unwrap();
        let line = self.target.line();
        let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    fn process(&self) -> Process {
        Process::open(self.target.pid()).unwrap()
    }

    fn is_released(&self) -> bool {
        let tids = self.process().threads().unwrap();
        tids.iter().all(|tid| {
            let of = |file: &str| {
                std::fs::read_to_string(format!("/proc/{}/task/{tid}/{file}", self.target.pid()))
                    .unwrap_or_default()
            };
            let state = of("stat").rsplit_once(") ").map(|(_, s)| s.chars().next());
            of("status").contains("TracerPid:\t0\n") && !matches!(state, Some(Some('t' | 'T')))
        })
    }
}

#[test]
fn all_threads_stop_together_and_resume() {
    let mut busy = Busy::start(20);
    let process = busy.process();
    let memory = process.memory().unwrap();
    let frozen = Tracer::run(|tracer| {
        let seized = tracer.seize(&process, Threads::All).unwrap();
        let state = |tid: i32| {
            let r = seized.registers(tid).unwrap();
            let mut top = [0; 64];
            memory.read(r.sp(), &mut top).unwrap();
            (r, top)
        };
        let states = || seized.stopped().map(|(tid, _)| (tid, state(tid))).collect::<Vec<_>>();
        let first = states();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(first, states(), "no thread runs");
        assert_eq!(seized.not_stopped().count(), 0);
        first.len()
    })
    .unwrap();
    assert_eq!(frozen, 21);
    assert!(busy.is_released());
    let before = busy.ask();
    let after = std::iter::repeat_with(|| busy.ask()).find(|now| now[0] > before[0]).unwrap();
    assert_eq!(after[2], 0, "a restartable system call failed with EINTR");
}

/// Every signal that was sent arrives, including those in whose delivery a thread was stopped.
#[test]
fn no_signal_is_lost() {
    let mut busy = Busy::start(4);
    let process = busy.process();
    let pid = nix::unistd::Pid::from_raw(process.pid());
    let stopped_on_signal = || {
        let seized = Tracer::run(|tracer| {
            let seized = tracer.seize(&process, Threads::All).unwrap();
            seized.stopped().filter(|(_, stop)| matches!(stop, Stop::Signal(_))).count()
        });
        seized.unwrap()
    };
    let enough = AtomicBool::new(false);
    let mut on_signal = 0;
    std::thread::scope(|s| {
        // Real-time signals are queued, so as many must be handled as were sent.
        let busy = &mut busy;
        let enough = &enough;
        s.spawn(move || {
            let mut sent = 0;
            while !enough.load(Ordering::SeqCst) {
                (0..50).for_each(|_| queue(pid.as_raw()));
                sent += 50;
                let handled = std::iter::repeat_with(|| busy.ask()[1]).find(|n| *n >= sent);
                assert_eq!(handled, Some(sent));
            }
        });
        for _ in 0..5000 {
            on_signal += stopped_on_signal();
            if on_signal >= 5 {
                break;
            }
        }
        enough.store(true, Ordering::SeqCst);
    });
    assert!(busy.is_released());
    assert!(on_signal > 0, "no thread was stopped in signal delivery, so nothing was tested");
}

#[allow(unsafe_code)]
fn queue(pid: i32) {
    // SAFETY: the arguments are integers only.
    let sent = unsafe { libc::kill(pid, libc::SIGRTMIN() + 3) };
    assert_eq!(sent, 0);
}

#[test]
fn a_stopped_program_stays_stopped() {
    let busy = Busy::start(3);
    let process = busy.process();
    let pid = nix::unistd::Pid::from_raw(process.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    while !state().contains("State:\tT (stopped)") {}
    // The first thread may stop before the others get a CPU to do so.
    let is_stopped = |tid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap();
        stat.contains(") T ")
    };
    while !process.threads().unwrap().iter().all(is_stopped) {}
    let stops: Vec<Stop> = Tracer::run(|tracer| {
        let seized = tracer.seize(&process, Threads::All).unwrap();
        seized.stopped().map(|(_, stop)| stop).collect()
    })
    .unwrap();
    assert_eq!(stops, [Stop::Group(libc::SIGSTOP); 4]);
    // After detaching, each thread returns to its group stop, which takes a moment.
    while !state().contains("State:\tT (stopped)") {}
    assert!(state().contains("TracerPid:\t0\n"));
    nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT).unwrap();
    let mut busy = busy;
    busy.ask();
}

/// Threads start and end all the time. Every existing thread is stopped, and the program resumes.
#[test]
fn threads_that_start_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = Target::start(&mut Command::new(program("churn", dir.path())));
    assert_eq!(target.line(), "ready");
    let process = Process::open(target.pid()).unwrap();
    for _ in 0..100 {
        Tracer::run(|tracer| {
            let seized = tracer.seize(&process, Threads::All).unwrap();
            let listed = process.threads().unwrap();
            for tid in &listed {
                let is_stopped = seized.stopped().any(|(t, _)| t == *tid);
                let state =
                    std::fs::read_to_string(format!("/proc/{}/task/{tid}/stat", process.pid()));
                let ended = state.map_or(true, |s| s.contains(") Z ") || s.contains(") X "));
                assert!(is_stopped || ended, "thread {tid} is running");
            }
        })
        .unwrap();
    }
    target.ping();
    let exec = Process::open(target.pid()).unwrap();
    assert!(exec.is_alive());
}

/// A thread other than the main thread calls exec while the program's threads are seized.
#[test]
fn exec_and_exit_are_not_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let path = program("reexec", dir.path());
    for _ in 0..30 {
        let mut target = Target::start(Command::new(&path).arg("5"));
        assert_eq!(target.line(), "ready");
        let process = Process::open(target.pid()).unwrap();
        target.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        // The program calls exec five times and then exits.
        Tracer::run(|tracer| {
            while process.is_alive() {
                tracer.settle();
                match tracer.seize(&process, Threads::All) {
                    Ok(seized) => drop(seized),
                    Err(SeizeError::Gone { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
                // On a single CPU a released thread must wait for us: without this sleep it would
                // be stopped again before it made any progress.
                std::thread::sleep(Duration::from_micros(50));
            }
        })
        .unwrap();
        assert_eq!(target.child.wait().unwrap().code(), Some(7));
    }
}

#[test]
fn another_tracer_is_reported() {
    let busy = Busy::start(1);
    let process = busy.process();
    let error = Tracer::run(|one| {
        let _held = one.seize(&process, Threads::All).unwrap();
        std::thread::scope(|s| {
            let other = s.spawn(|| {
                Tracer::run(|two| two.seize(&process, Threads::All).map(drop).unwrap_err())
            });
            other.join().unwrap().unwrap()
        })
    })
    .unwrap();
    assert!(matches!(&error, SeizeError::Traced { comm, .. } if comm == "tracer"), "{error}");
    assert!(busy.is_released());
}

#[test]
fn a_permission_error_suggests_a_fix() {
    let busy = Busy::start(1);
    let process = busy.process();
    let error = as_nobody(|| {
        let run = Tracer::run(|tracer| tracer.seize(&process, Threads::All).map(drop));
        run.unwrap().unwrap_err()
    });
    let text = error.to_string();
    assert!(matches!(error, SeizeError::NotPermitted { .. }), "{text}");
    assert!(text.contains("; fix: sudo setcap cap_bpf,"), "{text}");
}

#[test]
fn a_process_killed_while_stopped_is_gone() {
    let mut busy = Busy::start(2);
    let process = busy.process();
    Tracer::run(|tracer| {
        let seized = tracer.seize(&process, Threads::All).unwrap();
        busy.target.child.kill().unwrap();
        process.wait_exit(Some(Duration::from_millis(200))).unwrap();
        for (tid, _) in seized.stopped() {
            assert_eq!(seized.registers(tid), Err(NoRegisters::Gone));
        }
    })
    .unwrap();
    process.wait_exit(None).unwrap();
    busy.target.child.wait().unwrap();
    let again = Tracer::run(|tracer| tracer.seize(&process, Threads::All).map(drop)).unwrap();
    assert!(matches!(again, Err(SeizeError::Gone { .. })), "{again:?}");
}

/// A panic while threads are stopped releases them.
#[test]
fn a_panic_releases_the_threads() {
    let mut busy = Busy::start(3);
    let process = busy.process();
    let panicked = std::panic::catch_unwind(|| {
        Tracer::run(|tracer| {
            let _seized = tracer.seize(&process, Threads::All).unwrap();
            panic!("in the middle");
        })
    });
    assert!(panicked.is_err() && busy.is_released());
    busy.ask();
}

//! Tests of `record mutex`: it records only waits for locks, charged to the lock's holder.

use std::process::Command;

use exoprof_tests::Sample;
use exoprof_tests::compared::Compared;
use exoprof_tests::programs::{self, Program};

fn record(program: Program, args: &[&str]) -> Compared {
    record_for(4.0, program, args)
}

fn record_for(seconds: f64, program: Program, args: &[&str]) -> Compared {
    let args: Vec<&str> = [&["mutex"], args].concat();
    Compared::of(program, "locks", (seconds, &args), &[])
}

fn delay(compared: &Compared, keep: impl Fn(&Sample) -> bool) -> f64 {
    compared.measured("delay", keep)
}

/// The total delay is that of the locks' waiters: −5…+2%, plus 1% for the partial waits at both
/// ends. Both sides count a wait until the waiter is woken; how long it takes until the waiter runs
/// again depends on the machine.
#[track_caller]
fn assert_total(compared: &Compared, sites: &[&str]) {
    let ratio = delay(compared, |_| true) / compared.truth(sites);
    assert!(
        (0.94..=1.03).contains(&ratio),
        "total: {ratio:.4} of the truth\n{}",
        compared.profile.describe(9, |_| true)
    );
}

#[track_caller]
fn assert_none(compared: &Compared, functions: &[&str]) {
    for function in functions {
        let seen = compared.profile.samples.iter().find(|s| s.has(function));
        assert!(seen.is_none(), "{}", seen.expect("a sample"));
    }
}

const LOCK_SITES: &[&str] = &["wait_lock", "wait_read", "wait_write"];
/// Functions that end waits for a condition variable, a semaphore, a barrier or a thread, which are
/// not locks.
const NO_LOCKS: &[&str] = &["notify", "wait_barrier", "wait_join", "short_thread", "wait_cond"];

/// Each holder's delay is within 15% of the waiting that overlapped with its holding.
#[track_caller]
fn assert_holders(compared: &Compared) {
    let mut naive_fails = false;
    for holder in ["hold_a", "hold_b", "hold_c"] {
        let truth = compared.truth(&[&format!("held_{holder}")]);
        let ratio = delay(compared, |s| s.has(holder)) / truth;
        assert!((ratio - 1.0).abs() < 0.15, "{holder}: {ratio:.3} of the truth");
        let naive = compared.truth(&[&format!("naive_{holder}")]) / truth;
        naive_fails |= (naive - 1.0).abs() > 0.3;
    }
    // A profiler that charges the whole wait to the thread that ended it is far off: the program
    // distinguishes the two.
    assert!(naive_fails, "the naive shares do not differ from the truth");
}

#[test]
fn holders_are_charged_for_the_waits_of_others() {
    let compared = record(programs::WAITS, &[]);
    assert_total(&compared, LOCK_SITES);
    assert_none(&compared, NO_LOCKS);
    assert_holders(&compared);
    // The stack is that of the unlocking side.
    let leaf = |s: &Sample| s.stack.iter().take(8).any(|f| f.function.contains("unlock"));
    assert_eq!(
        delay(&compared, |s| !leaf(s)),
        0.0,
        "{}",
        compared.profile.describe(9, |s| !leaf(s))
    );
    let profile = &compared.profile;
    assert_eq!(profile.sample_types, ["contentions/count", "delay/nanoseconds"]);
}

/// In a stripped program only what the C library exports has a name.
#[test]
fn a_stripped_program() {
    let compared = record(programs::WAITS_STRIPPED, &[]);
    assert_total(&compared, LOCK_SITES);
    assert_none(&compared, &["sem_post", "pthread_cond_signal", "pthread_barrier_wait"]);
}

/// musl has no unwind tables, and its waiting functions have other names.
#[test]
fn musl() {
    for program in [programs::WAITS_MUSL, programs::WAITS_MUSL_DYNAMIC] {
        let compared = record(program, &[]);
        assert_total(&compared, LOCK_SITES);
        let no_locks = ["sem_post", "pthread_cond_signal", "pthread_barrier_wait", "notify"];
        assert_none(&compared, &no_locks);
        assert_holders(&compared);
    }
}

#[test]
fn cxx() {
    let compared = record(programs::WAITS_CXX, &[]);
    assert_total(&compared, &["locks"]);
    assert_none(&compared, &["feed", "wait_queue", "wait_semaphore", "wait_future"]);
    for holder in
        ["hold_mutex", "hold_timed_mutex", "hold_shared_mutex", "hold_shared_mutex_shared"]
    {
        assert!(delay(&compared, |s| s.has(holder)) > 0.0, "{holder}");
    }
}

#[test]
fn rust() {
    let compared = record(programs::WAITS_RUST, &[]);
    assert_total(&compared, &["locks"]);
    assert_none(&compared, &["feed", "wait_queue", "park", "unpark"]);
    for holder in ["hold_mutex", "hold_write", "hold_read"] {
        assert!(delay(&compared, |s| s.has(holder)) > 0.0, "{holder}");
    }
}

/// Each of its waiters sleeps on its own futex word.
#[test]
fn parking_lot() {
    let program = Command::new(env!("CARGO_BIN_EXE_waits-parking-lot"));
    let compared = Compared::of_command(program, (4.0, &["mutex"]));
    assert_total(&compared, &["locks"]);
    assert_none(&compared, &["feed", "wait_queue"]);
    // Writers hardly sleep in the short time that a reader holds the lock.
    for holder in ["hold_mutex", "hold_write"] {
        assert!(delay(&compared, |s| s.has(holder)) > 0.0, "{holder}");
    }
}

#[test]
fn the_waiting_side() {
    let compared = record_for(10.0, programs::WAITS, &["--waiters"]);
    assert_total(&compared, LOCK_SITES);
    assert_none(&compared, &["notify", "wait_cond", "wait_semaphore", "wait_barrier", "wait_join"]);
    for site in LOCK_SITES {
        // Some sites have few waits: their number alone is uncertain by 10%.
        let ratio = delay(&compared, |s| s.has(site)) / compared.truth(&[site]);
        assert!((ratio - 1.0).abs() < 0.2, "{site}: {ratio:.3} of the truth");
    }
    let says = |c: &String| c.contains("stacks are those of the waiting threads");
    assert!(compared.profile.comments.iter().any(says));
}

/// Without BPF, stacks are those of the waiting side, and the profile says so.
#[test]
fn perf_events_alone() {
    let compared = record(programs::WAITS, &["--backend", "perf"]);
    assert_none(&compared, &["notify", "wait_cond", "wait_semaphore", "wait_barrier", "wait_join"]);
    // The time until a CPU is free counts as part of the wait.
    let truth = compared.truth(&["wait_lock", "wait_lock_run"]);
    let ratio = delay(&compared, |s| s.has("wait_lock")) / truth;
    // One in several switches is sampled, and waits vary much in length: some 500 samples give the
    // sum within 4 × 6%.
    assert!((ratio - 1.0).abs() < 0.25, "{ratio:.3} of the truth");
    let says = |c: &String| c.contains("stacks are those of the waiting threads");
    assert!(compared.profile.comments.iter().any(says), "{:?}", compared.profile.comments);
}

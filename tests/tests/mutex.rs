//! Tests of `record mutex`: it records only waits for locks, charged to the lock's holder.

use std::process::Command;

use exoprof_tests::Sample;
use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::compared::Compared;
use exoprof_tests::programs::{self, Program};

fn record(program: Program, args: &[&str]) -> Compared {
    let args: Vec<&str> = [&["mutex"], args].concat();
    Compared::of(program, "locks", (4.0, &args), &[])
}

fn delay(compared: &Compared, keep: impl Fn(&Sample) -> bool) -> f64 {
    compared.measured("delay", keep)
}

/// For the delay of all locks, and for that of one holder or site, which has fewer samples.
const TOTAL: Rule = Rule { tolerance: 0.01, fault: 0.12, rounds: 8 };
const PART: Rule = Rule { tolerance: 0.1, fault: 0.3, rounds: 16 };

/// How far the total delay is from that of the locks' waiters, less 5% or plus 2%. Both sides count a
/// wait until the waiter is woken; how long it takes until the waiter runs again depends on the
/// machine.
fn total(compared: &Compared, sites: &[&str]) -> Deviation {
    let truth = compared.truth(sites);
    let bounds = (0.95 * truth, 1.02 * truth);
    Deviation::between("total", delay(compared, |_| true), bounds, compared.chance(|_| true))
}

/// Asserts the total delay by as many recordings as that takes; returns the last one.
#[track_caller]
fn assert_total(sites: &[&str], mut record: impl FnMut() -> Compared) -> Compared {
    TOTAL.check(|| {
        let compared = record();
        (vec![total(&compared, sites)], compared)
    })
}

/// How far the delay of some samples is from the truth.
fn part(compared: &Compared, what: &str, truth: f64) -> Deviation {
    let keep = |s: &Sample| s.has(what);
    Deviation::ratio(what, delay(compared, keep), truth, compared.chance(keep))
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

/// Asserts that each holder is charged with the waiting that overlapped with its holding, and the
/// total; returns the last recording.
#[track_caller]
fn assert_holders(program: Program) -> Compared {
    let compared = assert_total(LOCK_SITES, || record(program, &[]));
    let mut first = Some(compared);
    PART.check(|| {
        let compared = first.take().unwrap_or_else(|| record(program, &[]));
        let (mut deviations, mut naive_fails) = (Vec::new(), false);
        for holder in ["hold_a", "hold_b", "hold_c"] {
            let truth = compared.truth(&[&format!("held_{holder}")]);
            deviations.push(part(&compared, holder, truth));
            let naive = compared.truth(&[&format!("naive_{holder}")]) / truth;
            naive_fails |= (naive - 1.0).abs() > PART.fault;
        }
        // A profiler that charges the whole wait to the thread that ended it is far off: the program
        // distinguishes the two.
        assert!(naive_fails, "the naive shares do not differ from the truth");
        (deviations, compared)
    })
}

#[test]
fn holders_are_charged_for_the_waits_of_others() {
    let compared = assert_holders(programs::WAITS);
    assert_none(&compared, NO_LOCKS);
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
    let compared = assert_total(LOCK_SITES, || record(programs::WAITS_STRIPPED, &[]));
    assert_none(&compared, &["sem_post", "pthread_cond_signal", "pthread_barrier_wait"]);
}

/// musl has no unwind tables, and its waiting functions have other names.
#[test]
fn musl() {
    for program in [programs::WAITS_MUSL, programs::WAITS_MUSL_DYNAMIC] {
        let compared = assert_holders(program);
        let no_locks = ["sem_post", "pthread_cond_signal", "pthread_barrier_wait", "notify"];
        assert_none(&compared, &no_locks);
    }
}

#[test]
fn cxx() {
    let compared = assert_total(&["locks"], || record(programs::WAITS_CXX, &[]));
    assert_none(&compared, &["feed", "wait_queue", "wait_semaphore", "wait_future"]);
    for holder in
        ["hold_mutex", "hold_timed_mutex", "hold_shared_mutex", "hold_shared_mutex_shared"]
    {
        assert!(delay(&compared, |s| s.has(holder)) > 0.0, "{holder}");
    }
}

#[test]
fn rust() {
    let compared = assert_total(&["locks"], || record(programs::WAITS_RUST, &[]));
    assert_none(&compared, &["feed", "wait_queue", "park", "unpark"]);
    for holder in ["hold_mutex", "hold_write", "hold_read"] {
        assert!(delay(&compared, |s| s.has(holder)) > 0.0, "{holder}");
    }
}

/// Each of its waiters sleeps on its own futex word.
#[test]
fn parking_lot() {
    let program = || Command::new(env!("CARGO_BIN_EXE_waits-parking-lot"));
    let compared = assert_total(&["locks"], || Compared::of_command(program(), (4.0, &["mutex"])));
    assert_none(&compared, &["feed", "wait_queue"]);
    // Writers hardly sleep in the short time that a reader holds the lock.
    for holder in ["hold_mutex", "hold_write"] {
        assert!(delay(&compared, |s| s.has(holder)) > 0.0, "{holder}");
    }
}

#[test]
fn the_waiting_side() {
    let waiters = || record(programs::WAITS, &["--waiters"]);
    let mut first = Some(assert_total(LOCK_SITES, waiters));
    // Some sites have only 30 samples in a recording.
    let rule = Rule { fault: 0.6, ..PART };
    let compared = rule.check(|| {
        let compared = first.take().unwrap_or_else(waiters);
        let of = |site: &&str| part(&compared, site, compared.truth(&[site]));
        (LOCK_SITES.iter().map(of).collect(), compared)
    });
    assert_none(&compared, &["notify", "wait_cond", "wait_semaphore", "wait_barrier", "wait_join"]);
    let says = |c: &String| c.contains("stacks are those of the waiting threads");
    assert!(compared.profile.comments.iter().any(says));
}

/// Without BPF, stacks are those of the waiting side, and the profile says so.
#[test]
fn perf_events_alone() {
    // One in several switches is sampled, and waits vary much in length: by more than a rate of the
    // delay would suggest, so the standard deviation is doubled.
    let compared = PART.check(|| {
        let compared = record(programs::WAITS, &["--backend", "perf"]);
        // The time until a CPU is free counts as part of the wait.
        let truth = compared.truth(&["wait_lock", "wait_lock_run"]);
        let part = part(&compared, "wait_lock", truth);
        (vec![Deviation { sigma: 2.0 * part.sigma, ..part }], compared)
    });
    assert_none(&compared, &["notify", "wait_cond", "wait_semaphore", "wait_barrier", "wait_join"]);
    let says = |c: &String| c.contains("stacks are those of the waiting threads");
    assert!(compared.profile.comments.iter().any(says), "{:?}", compared.profile.comments);
}

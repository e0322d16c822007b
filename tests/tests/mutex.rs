//! `record mutex`: locks and nothing else, charged to who held them.

use std::time::Instant;

use exoprof_tests::programs::{self, Program};
use exoprof_tests::{Profile, Recorder, Sample, Target, Truth};

struct Compared {
    profile: Profile,
    truth: Truth,
    wall: f64,
}

impl Compared {
    fn of(program: Program, args: &[&str]) -> Self {
        let mut target = Target::working(program, &["locks"]);
        let before = target.mark();
        let began = Instant::now();
        let recording = Recorder::new()
            .args(["mutex", "-d", "4s"])
            .args(args)
            .args(["-p", &target.pid().to_string()])
            .run()
            .recording();
        let truth = target.mark().since(&before);
        let wall = began.elapsed().as_secs_f64();
        let _ = target.finish();
        Self { profile: recording.profile.clone(), truth, wall }
    }

    /// Per second.
    fn truth(&self, sites: &[&str]) -> f64 {
        sites.iter().map(|s| self.truth.ns(s)).sum::<u64>() as f64 / self.wall
    }

    fn delay(&self, keep: impl Fn(&Sample) -> bool) -> f64 {
        self.profile.sum("delay", keep) as f64 * 1e9 / self.profile.duration_nanos as f64
    }

    /// The delays are those of the locks' waiters: −5…+2%, and 1% for the partial waits at both
    /// ends. The delay ends at waking, the waiter's own measurement when it runs again.
    #[track_caller]
    fn assert_total(&self, sites: &[&str]) {
        let ratio = self.delay(|_| true) / self.truth(sites);
        assert!(
            (0.94..=1.03).contains(&ratio),
            "{ratio:.4} of the locks' waiting\n{}",
            self.profile.describe(9, |_| true)
        );
    }

    #[track_caller]
    fn assert_none(&self, functions: &[&str]) {
        for function in functions {
            let seen = self.profile.samples.iter().find(|s| s.has(function));
            assert!(seen.is_none(), "{}", seen.expect("a sample"));
        }
    }
}

const LOCK_SITES: &[&str] = &["wait_lock", "wait_read", "wait_write"];
/// Who ends waits for a condition variable, a semaphore, a barrier, or a thread.
const NO_LOCKS: &[&str] = &["notify", "wait_barrier", "wait_join", "short_thread", "wait_cond"];

#[test]
fn holders_are_charged_with_what_others_waited() {
    let compared = Compared::of(programs::WAITS, &[]);
    compared.assert_total(LOCK_SITES);
    compared.assert_none(NO_LOCKS);
    // Each within 15% of what overlapped with its holding; charging only with the wait of the
    // one that is woken is off by a factor of two.
    for holder in ["hold_a", "hold_b", "hold_c"] {
        let truth = compared.truth(&[&format!("held_{holder}")]);
        let ratio = compared.delay(|s| s.has(holder)) / truth;
        assert!((ratio - 1.0).abs() < 0.15, "{holder}: {ratio:.3} of the truth");
    }
    // It is the unlocking side.
    let leaf = |s: &Sample| s.stack.iter().take(8).any(|f| f.function.contains("unlock"));
    assert_eq!(compared.delay(|s| !leaf(s)), 0.0, "{}", compared.profile.describe(9, |s| !leaf(s)));
    let profile = &compared.profile;
    assert_eq!(profile.sample_types, ["contentions/count", "delay/nanoseconds"]);
}

/// Only what the C library exports has a name.
#[test]
fn a_stripped_program() {
    let compared = Compared::of(programs::WAITS_STRIPPED, &[]);
    compared.assert_total(LOCK_SITES);
    compared.assert_none(&["sem_post", "pthread_cond_signal", "pthread_barrier_wait"]);
}

/// musl has no unwind tables, so that stacks end in it: who holds is not known of each lock, but
/// what is a lock is.
#[test]
fn musl() {
    let compared = Compared::of(programs::WAITS_MUSL, &[]);
    compared.assert_total(LOCK_SITES);
    compared.assert_none(&["sem_post", "pthread_cond_signal", "pthread_barrier_wait", "notify"]);
}

#[test]
fn cxx() {
    let compared = Compared::of(programs::WAITS_CXX, &[]);
    compared.assert_total(&["locks"]);
    compared.assert_none(&["feed", "wait_queue", "wait_semaphore", "wait_future"]);
    for holder in
        ["hold_mutex", "hold_timed_mutex", "hold_shared_mutex", "hold_shared_mutex_shared"]
    {
        assert!(compared.delay(|s| s.has(holder)) > 0.0, "{holder}");
    }
}

#[test]
fn rust() {
    let compared = Compared::of(programs::WAITS_RUST, &[]);
    compared.assert_total(&["locks"]);
    compared.assert_none(&["feed", "wait_queue", "park", "unpark"]);
    for holder in ["hold_mutex", "hold_write", "hold_read"] {
        assert!(compared.delay(|s| s.has(holder)) > 0.0, "{holder}");
    }
}

#[test]
fn the_waiting_side() {
    let compared = Compared::of(programs::WAITS, &["--waiters"]);
    compared.assert_total(LOCK_SITES);
    compared.assert_none(&["notify", "wait_cond", "wait_semaphore", "wait_barrier", "wait_join"]);
    for site in LOCK_SITES {
        // Few waits at some sites: their number alone is uncertain by 10%.
        let ratio = compared.delay(|s| s.has(site)) / compared.truth(&[site]);
        assert!((ratio - 1.0).abs() < 0.2, "{site}: {ratio:.3} of the truth");
    }
    let says = |c: &String| c.contains("stacks are those of the waiting threads");
    assert!(compared.profile.comments.iter().any(says));
}

/// Without BPF it is the waiting side, and says so.
#[test]
fn perf_events_alone() {
    let compared = Compared::of(programs::WAITS, &["--backend", "perf"]);
    compared.assert_none(&["notify", "wait_cond", "wait_semaphore", "wait_barrier", "wait_join"]);
    let ratio = compared.delay(|s| s.has("wait_lock")) / compared.truth(&["wait_lock"]);
    assert!((ratio - 1.0).abs() < 0.15, "{ratio:.3} of the truth");
    let says = |c: &String| c.contains("stacks are those of the waiting threads");
    assert!(compared.profile.comments.iter().any(says), "{:?}", compared.profile.comments);
}

//! Locks of parking_lot, and other waits. `truth` gives the time slept for locks and for everything
//! else: wall time less CPU time and less the time spent waiting for a CPU, because these locks
//! call sched_yield(2) before they sleep.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use parking_lot::{Condvar, Mutex, RwLock};

static LOCKS: AtomicU64 = AtomicU64::new(0);
static OTHERS: AtomicU64 = AtomicU64::new(0);

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has a clock").into()
}

/// How long the thread has waited for a CPU: the second number in its schedstat. Does not allocate,
/// because allocators use locks.
fn run_delay() -> Duration {
    thread_local!(static STATS: File =
        File::open("/proc/thread-self/schedstat").expect("schedstat requires CONFIG_SCHED_INFO"));
    let mut text = [0; 80];
    let got = STATS.with(|stats| stats.read_at(&mut text, 0)).expect("it can be read");
    let text = std::str::from_utf8(&text[..got]).expect("numbers");
    let ns = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("three numbers");
    Duration::from_nanos(ns)
}

/// What a thread has used so far, as a consistent reading: it did not wait for a CPU between the
/// clocks. On a busy machine it often waits for milliseconds, which would be counted as sleep.
struct Spent {
    at: Instant,
    running: Duration,
}

impl Spent {
    fn now() -> Self {
        let mut delay = run_delay();
        loop {
            let (at, cpu) = (Instant::now(), thread_cpu());
            let after = run_delay();
            if after == delay {
                return Self { at, running: cpu + delay };
            }
            delay = after;
        }
    }
}

fn waited<T>(site: &AtomicU64, wait: impl FnOnce() -> T) -> T {
    let before = Spent::now();
    let value = wait();
    let after = Spent::now();
    let slept = (after.at - before.at).saturating_sub(after.running - before.running);
    site.fetch_add(slept.as_nanos() as u64, Relaxed);
    value
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Unlocks before the caller returns, so that the caller's frame is still on the stack.
#[inline(always)]
fn released<T>(held: T) {
    drop(held);
    std::hint::black_box(());
}

static MUTEX: Mutex<u64> = Mutex::new(0);
static RWLOCK: RwLock<u64> = RwLock::new(0);
static QUEUE: Mutex<u64> = Mutex::new(0);
static READY: Condvar = Condvar::new();

#[inline(never)]
fn hold_mutex() {
    let mut held = waited(&LOCKS, || MUTEX.lock());
    pause(2);
    *held += 1;
    released(held);
}

#[inline(never)]
fn hold_write() {
    let mut held = waited(&LOCKS, || RWLOCK.write());
    pause(3);
    *held += 1;
    released(held);
}

#[inline(never)]
fn hold_read() {
    let held = waited(&LOCKS, || RWLOCK.read());
    pause(1);
    released(held);
}

#[inline(never)]
fn feed() {
    pause(3);
    *QUEUE.lock() += 1;
    READY.notify_one();
}

#[inline(never)]
fn wait_queue() {
    waited(&OTHERS, || {
        let mut queued = QUEUE.lock();
        READY.wait_while(&mut queued, |n| *n == 0);
        *queued -= 1;
    });
}

fn repeat(work: fn()) {
    std::thread::spawn(move || {
        loop {
            work();
            pause(1);
        }
    });
}

fn main() {
    println!("ready pid={}", std::process::id());
    let print_truth = || {
        let (locks, others) = (LOCKS.load(Relaxed), OTHERS.load(Relaxed));
        println!("truth locks={locks} others={others}");
    };
    for line in std::io::stdin().lines().map_while(Result::ok) {
        if line.starts_with("go ") {
            for work in [hold_mutex, hold_mutex, hold_mutex, hold_write, hold_read, hold_read] {
                repeat(work);
            }
            for work in [feed, wait_queue] {
                repeat(work);
            }
        } else {
            print_truth();
        }
    }
    print_truth();
}

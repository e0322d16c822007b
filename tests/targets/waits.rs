// Locks of Rust's standard library, and other waits. `truth` gives the time slept for locks and for
// everything else: wall time less CPU time and less the time spent waiting for a CPU.
#![allow(dead_code)]

include!("truth.rs");

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

const NAMES: &[&str] = &["locks", "others"];

/// How long the thread has waited for a CPU: the second number in its schedstat. Does not allocate,
/// because allocators use locks.
fn run_delay() -> u64 {
    use std::os::unix::fs::FileExt;
    thread_local!(static STATS: std::fs::File =
        std::fs::File::open("/proc/thread-self/schedstat").unwrap());
    let mut text = [0; 80];
    let got = STATS.with(|stats| stats.read_at(&mut text, 0)).unwrap();
    let text = std::str::from_utf8(&text[..got]).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Wall time, and CPU time plus the wait for a CPU, as a consistent reading: the thread did not
/// wait for a CPU between them.
fn spent() -> (Instant, u64) {
    let mut delay = run_delay();
    loop {
        let (at, cpu) = (Instant::now(), thread_cpu());
        let after = run_delay();
        if after == delay {
            return (at, cpu + delay);
        }
        delay = after;
    }
}

fn waited<T>(site: usize, wait: impl FnOnce() -> T) -> T {
    let (begin, running) = spent();
    let value = wait();
    let (end, still) = spent();
    let ns = (end - begin).as_nanos() as u64;
    NANOS[site].fetch_add(ns.saturating_sub(still - running), Relaxed);
    value
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

static MUTEX: Mutex<u64> = Mutex::new(0);
static RWLOCK: RwLock<u64> = RwLock::new(0);
static QUEUE: Mutex<u64> = Mutex::new(0);
static READY: Condvar = Condvar::new();

#[inline(never)]
fn hold_mutex() {
    let mut held = waited(0, || MUTEX.lock().unwrap());
    pause(2);
    *held += 1;
}

#[inline(never)]
fn hold_write() {
    let mut held = waited(0, || RWLOCK.write().unwrap());
    pause(3);
    *held += 1;
}

#[inline(never)]
fn hold_read() {
    let held = waited(0, || RWLOCK.read().unwrap());
    pause(1);
    std::hint::black_box(*held);
}

#[inline(never)]
fn feed() {
    pause(3);
    *QUEUE.lock().unwrap() += 1;
    READY.notify_one();
}

#[inline(never)]
fn wait_queue() {
    waited(1, || {
        let guard = QUEUE.lock().unwrap();
        *READY.wait_while(guard, |n| *n == 0).unwrap() -= 1;
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
    let main = std::thread::current();
    std::thread::spawn(move || {
        println!("ready pid={}", std::process::id());
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if line.starts_with("go ") {
                main.unpark();
            } else {
                truth_print(NAMES);
            }
        }
        truth_print(NAMES);
        std::process::exit(0);
    });
    std::thread::park();
    // Two writers would starve the readers.
    for work in [hold_mutex, hold_mutex, hold_mutex, hold_write, hold_read, hold_read] {
        repeat(work);
    }
    for work in [feed, wait_queue] {
        repeat(work);
    }
    let barrier = Arc::new(Barrier::new(2));
    for _ in 0..2 {
        let barrier = barrier.clone();
        std::thread::spawn(move || {
            loop {
                waited(1, || barrier.wait());
                pause(2);
            }
        });
    }
    let (sender, receiver) = sync_channel(0);
    std::thread::spawn(move || {
        loop {
            pause(2);
            waited(1, || sender.send(1).unwrap());
        }
    });
    std::thread::spawn(move || {
        loop {
            waited(1, || receiver.recv().unwrap());
        }
    });
    loop {
        waited(1, || std::thread::spawn(|| pause(4)).join().unwrap());
    }
}

// The handshake of truth.h for Rust programs that `include!` this file; it needs no crates. A
// separate thread ("truth") reads commands and otherwise sleeps in read(2).

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, to: *mut Timespec) -> i32;
}

static GOING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
static GOAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
static NANOS: [std::sync::atomic::AtomicU64; 8] =
    [const { std::sync::atomic::AtomicU64::new(0) }; 8];

fn thread_cpu() -> u64 {
    let mut t = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: 3 is CLOCK_THREAD_CPUTIME_ID and `t` is a live timespec.
    unsafe { clock_gettime(3, &mut t) };
    t.seconds as u64 * 1_000_000_000 + t.nanoseconds as u64
}

fn truth_print(names: &[&str]) {
    let mut line = String::from("truth");
    for (name, ns) in names.iter().zip(&NANOS) {
        line += &format!(" {name}={}", ns.load(std::sync::atomic::Ordering::Relaxed));
    }
    println!("{line}");
}

/// Prints `ready`, obeys stdin and runs random slices `slice(i)` while there is work.
fn truth_run(names: &'static [&'static str], slice: fn(usize)) {
    use std::sync::atomic::Ordering::SeqCst;
    let main = std::thread::current();
    std::thread::Builder::new()
        .name("truth".into())
        .spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if let Some(ms) = line.strip_prefix("go ") {
                    GOAL.store(ms.parse::<u64>().unwrap() * 1_000_000, SeqCst);
                    GOING.store(true, SeqCst);
                    main.unpark();
                } else {
                    truth_print(names);
                }
            }
            truth_print(names);
            std::process::exit(0);
        })
        .unwrap();
    println!("ready pid={}", std::process::id());
    loop {
        while !GOING.load(SeqCst) {
            std::thread::park();
        }
        let begin = thread_cpu();
        let mut random = begin | 1;
        while GOING.load(SeqCst) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let index = (random >> 20) as usize % names.len();
            let from = thread_cpu();
            slice(index);
            NANOS[index].fetch_add(thread_cpu() - from, SeqCst);
            let goal = GOAL.load(SeqCst);
            if goal > 0 && thread_cpu() - begin >= goal {
                GOING.store(false, SeqCst);
                println!("done");
            }
        }
    }
}

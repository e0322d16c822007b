//! Reads the processor's tick counter, which Go's runtime uses to measure how long a goroutine
//! waited.

use std::time::{Duration, Instant};

/// The counter at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Ticks {
    count: u64,
    at: Instant,
}

/// How often both clocks are read; the closest pair is taken.
const ROUNDS: usize = 16;

impl Ticks {
    /// Reads the counter and the clock at the same moment.
    #[must_use]
    pub fn now() -> Self {
        let mut best: Option<(Duration, Self)> = None;
        for _ in 0..ROUNDS {
            let before = Instant::now();
            let count = counter();
            let gap = before.elapsed();
            // An interruption between both makes the gap wide.
            if best.as_ref().is_none_or(|(least, _)| gap < *least) {
                best = Some((gap, Self { count, at: before + gap / 2 }));
            }
        }
        best.map_or_else(|| Self { count: counter(), at: Instant::now() }, |(_, ticks)| ticks)
    }

    /// Ticks per second since `earlier`. The error is 0.02 % for 100 ms, and less for longer times.
    #[must_use]
    pub fn rate_since(self, earlier: Self) -> f64 {
        let ticks = self.count.wrapping_sub(earlier.count) as f64;
        ticks / self.at.duration_since(earlier.at).as_secs_f64().max(1e-9)
    }

    /// How long ago this was.
    #[must_use]
    pub fn age(self) -> Duration {
        self.at.elapsed()
    }
}

/// `cputicks` of Go's runtime.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; where the kernel forbids it
    // (PR_TSC_SIGSEGV), Go programs could not run either.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// `cputicks` of Go's runtime: the virtual counter.
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
fn counter() -> u64 {
    let count: u64;
    // SAFETY: reads a register that Linux lets user space read.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_keeps_its_rate() {
        let a = Ticks::now();
        while a.age() < Duration::from_millis(50) {}
        let b = Ticks::now();
        while b.age() < Duration::from_millis(50) {}
        let c = Ticks::now();
        let (first, second) = (b.rate_since(a), c.rate_since(b));
        assert!(first > 1e6, "{first}");
        // Both clocks are read within a microsecond of each other, of 50 ms.
        assert!((first / second - 1.0).abs() < 0.005, "{first} {second}");
    }
}

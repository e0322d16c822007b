//! Adapts the sampling rate of waiting to the number of samples.

/// More samples per second than this make the rate coarser at once.
const MOST_PER_SECOND: f64 = 1900.0;
/// Aim of each change of the rate, in samples per second.
const AIM_PER_SECOND: f64 = 1400.0;
/// Fewer samples per second than this make the rate finer, slowly.
const LEAST_PER_SECOND: f64 = 700.0;
/// The rate at the beginning, unless it must be coarser: 10 ms.
const FIRST_NS: u64 = 10_000_000;
/// Rates are reviewed once in this time, or earlier, after [`BURST`] samples.
const LOOK_NS: u64 = 100_000_000;
/// After this many samples, the rate is reviewed before [`LOOK_NS`] have passed.
const BURST: u64 = 300;
/// The coarsest rate: a thousand threads that always wait give 10 samples per second.
const COARSEST_NS: u64 = 100_000_000_000;

/// Mean nanoseconds of waiting between two samples.
///
/// A wait longer than the rate is always sampled, so that a fixed rate does not bound the number of
/// samples: a thousand threads that sleep for 100 ms each have 10,000 such waits per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    finest: u64,
    now: u64,
    picked: u64,
    at: u64,
}

impl Rate {
    /// A rate that is never finer than `finest`.
    pub fn new(finest: u64) -> Self {
        let finest = finest.clamp(1, COARSEST_NS);
        Self { finest, now: FIRST_NS.max(finest), picked: 0, at: 0 }
    }

    /// Begins so coarsely that `threads` give at most 1000 samples per second, even if all of them
    /// always wait: at rate r, waiting for t gives at most t/r samples.
    pub fn begin(&mut self, threads: u64) {
        self.now = self.now.max(threads.saturating_mul(1_000_000)).min(COARSEST_NS);
    }

    pub fn ns(self) -> u64 {
        self.now
    }

    /// Adapts to the number of samples taken until `now`. Returns whether the rate changed.
    pub fn review(&mut self, picked: u64, now: u64) -> bool {
        let taken = picked.saturating_sub(self.picked);
        let elapsed = now.saturating_sub(self.at);
        if self.at == 0 || elapsed == 0 {
            (self.picked, self.at) = (picked, now);
            return false;
        }
        let per_second = taken as f64 * 1e9 / elapsed as f64;
        let before = self.now;
        if elapsed < LOOK_NS && taken <= BURST {
            // Too early: many threads that wake at once are no rate yet.
            return false;
        }
        if per_second > MOST_PER_SECOND {
            let seconds = elapsed.max(LOOK_NS) as f64 / 1e9;
            let factor = (taken as f64 / seconds / AIM_PER_SECOND).clamp(1.0, 32.0);
            self.now = ((self.now as f64 * factor) as u64).min(COARSEST_NS);
        } else if per_second < LEAST_PER_SECOND {
            let factor = (per_second / AIM_PER_SECOND).max(0.5);
            self.now = ((self.now as f64 * factor) as u64).max(self.finest);
        }
        (self.picked, self.at) = (picked, now);
        self.now != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a program whose waits, of `wait` nanoseconds each, come `per_second` times.
    fn settle(rate: &mut Rate, wait: u64, per_second: f64, seconds: u64) -> f64 {
        let (mut picked, mut last) = (0.0, 0.0);
        for step in 1..=seconds * 50 {
            let p = (wait as f64 / rate.ns() as f64).min(1.0);
            last = per_second * p;
            picked += last / 50.0;
            rate.review(picked as u64, step * 20_000_000);
        }
        last
    }

    #[test]
    fn many_long_waits_make_it_coarser() {
        let mut rate = Rate::new(10_000);
        let per_second = settle(&mut rate, 100_000_000, 10_000.0, 3);
        assert!((500.0..=1900.0).contains(&per_second), "{per_second} samples a second");
    }

    #[test]
    fn many_threads_begin_coarsely() {
        let mut rate = Rate::new(10_000);
        rate.begin(3);
        assert_eq!(rate.ns(), FIRST_NS);
        rate.begin(1000);
        assert_eq!(rate.ns(), 1_000_000_000);
    }

    #[test]
    fn few_waits_make_it_as_fine_as_asked() {
        let mut rate = Rate::new(50_000);
        settle(&mut rate, 200_000, 100.0, 5);
        assert_eq!(rate.ns(), 50_000);
    }

    #[test]
    fn it_is_never_finer_than_asked() {
        let mut rate = Rate::new(1_000_000_000);
        assert_eq!(rate.ns(), 1_000_000_000);
        settle(&mut rate, 1_000, 1.0, 2);
        assert_eq!(rate.ns(), 1_000_000_000);
        assert_eq!(Rate::new(0).finest, 1);
    }
}

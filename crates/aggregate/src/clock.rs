//! Reads the two clocks of a recording: monotonic time and Unix time.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds, the clock of all event times.
pub fn monotonic_now() -> u64 {
    // This cannot fail: the only documented error is an unknown clock, and CLOCK_MONOTONIC always
    // exists.
    let Ok(t) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let (seconds, nanos) = (t.tv_sec().cast_unsigned(), t.tv_nsec().cast_unsigned());
    seconds * 1_000_000_000 + nanos
}

/// Nanoseconds since the Unix epoch, for the profile's header.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clocks_count_nanoseconds() {
        let wait = Duration::from_millis(20);
        let (monotonic, unix) = (monotonic_now(), unix_now());
        std::thread::sleep(wait);
        let passed = monotonic_now() - monotonic;
        // Generous: another process may take the CPU, but no unit is off by less than 1000.
        assert!((20_000_000..20_000_000_000).contains(&passed), "{passed}");
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        assert!(seconds.abs_diff((unix / 1_000_000_000).cast_unsigned()) < 60);
    }
}

//! Converts sample weights to CPU time.
//!
//! A sample does not stand for exactly one sampling period: timers fire late, a hypervisor takes
//! the CPU away, the kernel throttles. On a guest, `cpu-clock` samples were seen to add up to only
//! 77 % of the CPU time used. Samples therefore only determine how a thread's time is *divided*
//! among its stacks; the total is the scheduler's own count. Each thread's samples are weighted so
//! that they add up to it.
//!
//! A thread that ran for less than a few periods has too few samples to represent its time. Which
//! of a thousand such threads are sampled is chance, and if each sampled thread only got its own
//! time, the time of all others would be lost. Such threads are weighted as one group per process
//! and thread name. Time without any samples is reported separately ([`UNSAMPLED`]) and not spread
//! over other threads.

use std::collections::BTreeMap;

use crate::ids::{Count, ThreadId};

/// The name of the frame that stands for CPU time without samples.
pub const UNSAMPLED: &str = "[cpu time without samples]";

/// A thread's CPU time during the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuTime {
    /// The count of the scheduler or of the event, in nanoseconds.
    Known(u64),
    /// The thread ended before its time was read; it is estimated from its samples.
    Unknown,
}

/// A thread's CPU time and samples.
#[derive(Debug, Clone)]
pub struct ThreadUse {
    /// The thread.
    pub id: ThreadId,
    /// The group in which a thread with few samples is weighted: an index of its name.
    pub group: u32,
    /// The CPU time of the thread.
    pub time: CpuTime,
    /// The number and weight of its samples.
    pub count: Count,
}

/// Threads with fewer expected samples than this are weighted as a group.
const THIN_PERIODS: u64 = 4;

/// The result of [`weigh`]: nanoseconds per unit of weight for each thread, and the time without
/// samples.
#[derive(Debug, Default, PartialEq)]
pub struct Weights {
    per_unit: BTreeMap<ThreadId, f64>,
    /// CPU time of threads and groups without samples, in nanoseconds, each with the thread that it
    /// belongs to (for a group, its first thread).
    pub unsampled: Vec<(ThreadId, u64)>,
}

impl Weights {
    /// Nanoseconds per unit of sample weight of this thread.
    pub fn per_unit(&self, id: ThreadId) -> f64 {
        self.per_unit.get(&id).copied().unwrap_or(0.0)
    }
}

/// Computes how much CPU time one unit of sample weight stands for in each thread. `unit` is the
/// nominal value in nanoseconds (1 if weights already are nanoseconds), used if no thread's time is
/// known. `period` is the sampling period in nanoseconds.
pub fn weigh(threads: &[ThreadUse], unit: f64, period: u64) -> Weights {
    let mut out = Weights::default();
    let calibration = calibration(threads).unwrap_or(unit);
    let mut groups: BTreeMap<(i32, u32), Vec<&ThreadUse>> = BTreeMap::new();
    for t in threads {
        match t.time {
            CpuTime::Known(ns) if ns >= THIN_PERIODS * period => weigh_together(&mut out, &[t], ns),
            CpuTime::Known(_) => groups.entry((t.id.pid, t.group)).or_default().push(t),
            CpuTime::Unknown => {
                out.per_unit.insert(t.id, calibration);
            }
        }
    }
    for group in groups.values() {
        let total = group.iter().map(|t| known(t)).sum();
        weigh_together(&mut out, group, total);
    }
    out
}

fn known(t: &ThreadUse) -> u64 {
    match t.time {
        CpuTime::Known(ns) => ns,
        CpuTime::Unknown => 0,
    }
}

fn weigh_together(out: &mut Weights, threads: &[&ThreadUse], ns: u64) {
    let weight: u64 = threads.iter().map(|t| t.count.weight).sum();
    if weight > 0 {
        let per_unit = ns as f64 / weight as f64;
        out.per_unit.extend(threads.iter().map(|t| (t.id, per_unit)));
    } else if ns > 0 {
        out.unsampled.extend(threads.first().map(|t| (t.id, ns)));
    }
}

/// Nanoseconds per unit of weight over all threads whose time is known.
fn calibration(threads: &[ThreadUse]) -> Option<f64> {
    let with_time = threads.iter().filter(|t| matches!(t.time, CpuTime::Known(_)));
    let (ns, weight) = with_time.fold((0, 0), |(ns, w), t| (ns + known(t), w + t.count.weight));
    (weight > 0 && ns > 0).then(|| ns as f64 / weight as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = 10_000_000;

    fn thread(tid: i32, time: CpuTime, samples: u64) -> ThreadUse {
        let count = Count { samples, weight: samples * PERIOD };
        ThreadUse { id: ThreadId { pid: 1, tid }, group: 0, time, count }
    }

    fn total(threads: &[ThreadUse]) -> f64 {
        let w = weigh(threads, 1.0, PERIOD);
        let sampled: f64 = threads.iter().map(|t| w.per_unit(t.id) * t.count.weight as f64).sum();
        sampled + w.unsampled.iter().map(|u| u.1 as f64).sum::<f64>()
    }

    #[test]
    fn late_timers_do_not_lose_time() {
        // 77 of 100 samples arrived.
        let t = thread(1, CpuTime::Known(100 * PERIOD), 77);
        assert!((total(&[t]) - 1e9).abs() < 1.0);
    }

    #[test]
    fn thin_threads_share_their_time_so_that_none_is_lost() {
        // 100 threads that each ran for half a period: about 50 are sampled.
        let threads: Vec<_> = (0..100)
            .map(|i| thread(i, CpuTime::Known(PERIOD / 2), u64::from(i % 2 == 0)))
            .collect();
        let w = weigh(&threads, 1.0, PERIOD);
        assert_eq!(w.unsampled, []);
        assert!((w.per_unit(threads[0].id) - 1.0).abs() < 1e-9);
        assert!((total(&threads) - 50.0 * PERIOD as f64).abs() < 1.0);
    }

    #[test]
    fn time_without_samples_is_reported_separately() {
        let threads = [
            thread(1, CpuTime::Known(100 * PERIOD), 100),
            thread(2, CpuTime::Known(50 * PERIOD), 0),
        ];
        let w = weigh(&threads, 1.0, PERIOD);
        assert_eq!(w.unsampled, [(threads[1].id, 50 * PERIOD)]);
        assert!((w.per_unit(threads[0].id) - 1.0).abs() < 1e-9, "must only get its own time");
    }

    #[test]
    fn a_thread_that_left_no_count_is_calibrated_by_the_others() {
        let threads =
            [thread(1, CpuTime::Known(100 * PERIOD), 80), thread(2, CpuTime::Unknown, 40)];
        let w = weigh(&threads, 1.0, PERIOD);
        assert!((w.per_unit(threads[1].id) - 1.25).abs() < 1e-9);
        assert!((weigh(&threads[1..], 1.0, PERIOD).per_unit(threads[1].id) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn only_thin_threads_of_one_process_and_name_are_weighted_together() {
        let known = |tid, periods, samples| thread(tid, CpuTime::Known(periods * PERIOD), samples);
        // Four periods are enough to stand alone.
        let w = weigh(&[known(1, 3, 3), known(2, 4, 0)], 1.0, PERIOD);
        assert_eq!(w.unsampled, [(ThreadId { pid: 1, tid: 2 }, 4 * PERIOD)]);
        let mut others = [known(1, 1, 1), known(2, 3, 0), known(3, 3, 0)];
        others[1].group = 1;
        others[2].id.pid = 2;
        let w = weigh(&others, 1.0, PERIOD);
        assert_eq!(w.unsampled, [(others[1].id, 3 * PERIOD), (others[2].id, 3 * PERIOD)]);
        assert!((w.per_unit(others[0].id) - 1.0).abs() < 1e-9);
        assert!(w.per_unit(ThreadId { pid: 9, tid: 9 }).abs() < 1e-9);
    }
}

//! Measures how much CPU time each thread used during the recording.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use process::Process;

use crate::cputime::{CpuTime, ThreadUse};
use crate::ids::{Count, ThreadId};
use crate::processes::{Processes, Tracked};

/// Reads the CPU times of all threads at the start of the recording. With `modes`, also reads how
/// they split between user mode and the kernel.
pub fn begin(processes: &mut Processes, modes: bool) {
    for pid in processes.pids() {
        let Some(process) = processes.get(pid).and_then(|t| t.process.clone()) else { continue };
        for tid in process.threads().unwrap_or_default() {
            if let Ok(ns) = process.thread_cpu_time(tid) {
                processes.add_thread(pid, tid, 0);
                if let Some(t) = processes.thread_mut(pid, tid) {
                    t.baseline = ns;
                    if modes {
                        t.ticks_at_begin = process.thread_mode_ticks(tid).unwrap_or_default();
                    }
                }
            }
        }
        if let Some(tracked) = processes.get_mut(pid) {
            // Threads that ended before the recording do not belong to it.
            tracked.threads.retain(|_, t| !t.ended);
            begin_reaped(tracked, &process);
        }
    }
}

/// Reads the CPU times of all threads at the end of the recording, as [`begin`] did at its start.
/// Threads of ended processes have no time at the end.
pub fn end(processes: &mut Processes, modes: bool) {
    end_reaped(processes);
    for pid in processes.pids() {
        let Some(process) = processes.get(pid).and_then(|t| t.process.clone()) else { continue };
        for tid in process.threads().unwrap_or_default() {
            let Ok(ns) = process.thread_cpu_time(tid) else { continue };
            // A thread for which no event has arrived has used CPU time as well.
            processes.add_thread(pid, tid, 0);
            if let Some(t) = processes.thread_mut(pid, tid) {
                t.at_end = Some(ns);
                if modes {
                    t.ticks_at_end = process.thread_mode_ticks(tid).unwrap_or_default();
                }
            }
        }
    }
    look_at_clocks(processes);
}

/// Reads the CPU clocks of all processes. A process that has exited keeps the last value read.
pub fn look_at_clocks(processes: &mut Processes) {
    for (_, tracked) in processes.iter_mut() {
        let now = tracked.process.as_ref().and_then(|p| p.process_cpu_time().ok());
        tracked.clock_at_end = now.or(tracked.clock_at_end);
    }
}

/// Combines the CPU times of threads with their sample counts. [`ThreadUse::group`] is assigned by
/// thread name; threads that are not followed form one group.
pub fn thread_uses(
    processes: &Processes,
    times: impl IntoIterator<Item = (ThreadId, CpuTime)>,
    counts: &BTreeMap<ThreadId, Count>,
) -> Vec<ThreadUse> {
    let mut groups: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    let mut uses = Vec::new();
    for (id, time) in times {
        let count = counts.get(&id).copied().unwrap_or_default();
        let thread = processes.get(id.pid).and_then(|p| p.threads.get(&id.tid));
        let next = groups.len() as u32;
        let group = thread.map_or(u32::MAX, |t| *groups.entry(t.name.clone()).or_insert(next));
        uses.push(ThreadUse { id, group, time, count });
    }
    uses
}

/// The CPU time of every thread, where it is known. `weights` are the total sample weights of the
/// threads; where only a total time is known, it is divided in proportion to them.
pub fn tally(
    processes: &Processes,
    weights: &BTreeMap<ThreadId, u64>,
) -> BTreeMap<ThreadId, CpuTime> {
    let mut times = BTreeMap::new();
    for (pid, tracked) in processes.iter() {
        for &tid in tracked.threads.keys() {
            let id = ThreadId { pid, tid };
            times.insert(id, thread_time(tracked, tid));
        }
    }
    let counted: BTreeSet<ThreadId> =
        times.iter().filter(|(_, t)| **t != CpuTime::Unknown).map(|(id, _)| *id).collect();
    for (pid, tracked) in processes.iter() {
        share_remainder(pid, tracked, weights, &mut times);
    }
    share_reaped(processes, weights, &counted, &mut times);
    times
}

/// Reads the CPU time of the process, and of the children that it has reaped, at the start of the
/// recording.
pub fn begin_reaped(tracked: &mut Tracked, process: &Process) {
    tracked.clock_at_begin = process.process_cpu_time().ok();
    tracked.reaped_at_begin = process.reaped_children_cpu_time().ok();
}

/// Reads the CPU time of the children that each running process has reaped by the end of the
/// recording.
pub fn end_reaped(processes: &mut Processes) {
    for process in processes.alive() {
        if let Some(tracked) = processes.get_mut(process.pid()) {
            tracked.reaped_at_end = process.reaped_children_cpu_time().ok();
        }
    }
}

/// The CPU time during the recording of children that processes still running at its end have
/// reaped, in nanoseconds, including the children that those had reaped themselves. The kernel
/// counts it in ticks of 10 ms.
pub fn reaped(processes: &Processes) -> u64 {
    // Uses the values read at the end of the recording: processes keep running, and further
    // children exit since.
    let reaped = |tracked: &Tracked| tracked.reaped_at_end?.checked_sub(tracked.reaped_at_begin?);
    let total: u64 = processes.iter().filter_map(|(_, t)| reaped(t)).sum();
    // When a process is reaped, the CPU time that it used before the recording is included in the
    // total and must be subtracted.
    let before = |tracked: &Tracked| {
        tracked.clock_at_begin.unwrap_or(0) + tracked.reaped_at_begin.unwrap_or(0)
    };
    let waited_for = |t: &Tracked| {
        t.reaped_at_end.is_none() && t.parent.is_some_and(|p| processes.get(p).is_some())
    };
    let before: u64 = processes.iter().filter(|(_, t)| waited_for(t)).map(|(_, t)| before(t)).sum();
    total.saturating_sub(before)
}

/// Divides the CPU time of reaped children ([`reaped`]) among the threads of exited processes. What
/// remains after the exactly known times is divided in proportion to sample weights, but a process
/// whose clock was read before it exited gets at least the time read.
fn share_reaped(
    processes: &Processes,
    weights: &BTreeMap<ThreadId, u64>,
    counted: &BTreeSet<ThreadId>,
    times: &mut BTreeMap<ThreadId, CpuTime>,
) {
    let total = reaped(processes);
    let exited = |pid: i32| processes.get(pid).is_some_and(|t| t.reaped_at_end.is_none());
    let of_exited = || times.iter().filter(|(id, _)| exited(id.pid));
    let exact: u64 =
        of_exited().filter(|(id, _)| counted.contains(id)).map(|(_, t)| known(t)).sum();
    let estimated: Vec<Estimate> = of_exited()
        .filter(|(id, _)| !counted.contains(id))
        .map(|(id, t)| Estimate {
            id: *id,
            least: known(t),
            weight: weights.get(id).copied().unwrap_or(0),
        })
        .collect();
    for (id, ns) in shares_above(total.saturating_sub(exact), estimated) {
        times.insert(id, CpuTime::Known(ns));
    }
}

/// A thread of which only the samples and a lower bound of its CPU time are known.
struct Estimate {
    id: ThreadId,
    /// Lower bound of its CPU time, in nanoseconds.
    least: u64,
    weight: u64,
}

/// Divides `total` nanoseconds by weight so that each thread gets at least its lower bound. Returns
/// only the threads that get more than that, so nothing if the lower bounds use up the total.
fn shares_above(total: u64, mut of: Vec<Estimate>) -> Vec<(ThreadId, u64)> {
    let without_samples: u64 = of.iter().filter(|e| e.weight == 0).map(|e| e.least).sum();
    of.retain(|e| e.weight > 0);
    // Threads with the highest lower bound per weight come first. They keep their lower bound until
    // dividing the remaining time by weight gives each remaining thread at least its lower bound.
    let ratio = |e: &Estimate| e.least as f64 / e.weight as f64;
    of.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)));
    let mut left = total.saturating_sub(without_samples);
    let mut weight: u128 = of.iter().map(|e| u128::from(e.weight)).sum();
    let mut keep = 0;
    for e in &of {
        let share = u128::from(left) * u128::from(e.weight) / weight.max(1);
        if share >= u128::from(e.least) {
            break;
        }
        keep += 1;
        left = left.saturating_sub(e.least);
        weight -= u128::from(e.weight);
    }
    let of_left = |e: &Estimate| {
        let ns = u128::from(left) * u128::from(e.weight) / weight.max(1);
        (e.id, u64::try_from(ns).unwrap_or(u64::MAX))
    };
    of[keep..].iter().map(of_left).filter(|(_, ns)| *ns > 0).collect()
}

fn known(time: &CpuTime) -> u64 {
    match time {
        CpuTime::Known(ns) => *ns,
        CpuTime::Unknown => 0,
    }
}

/// Divides `ns` nanoseconds among threads in proportion to the weight of their samples.
fn share(
    ns: u64,
    threads: &[ThreadId],
    weights: &BTreeMap<ThreadId, u64>,
    times: &mut BTreeMap<ThreadId, CpuTime>,
) {
    let weight_of = |id: &ThreadId| u128::from(weights.get(id).copied().unwrap_or(0));
    let total: u128 = threads.iter().map(weight_of).sum();
    if total == 0 || ns == 0 {
        return;
    }
    for id in threads {
        let part = u128::from(ns) * weight_of(id) / total;
        times.insert(*id, CpuTime::Known(u64::try_from(part).unwrap_or(u64::MAX)));
    }
}

fn thread_time(tracked: &Tracked, tid: i32) -> CpuTime {
    // A sample of an exiting thread that no longer has a TID has TID -1.
    let Some(t) = tracked.threads.get(&tid).filter(|_| tid > 0) else { return CpuTime::Unknown };
    // If two threads had the same TID, only the time of the second one can be read.
    let at_end = t.at_end.filter(|_| !t.reused);
    at_end.map_or(CpuTime::Unknown, |ns| CpuTime::Known(ns.saturating_sub(t.baseline)))
}

/// Divides the rest of the process's CPU time, after its threads with known time, among its threads
/// with unknown time.
fn share_remainder(
    pid: i32,
    tracked: &Tracked,
    weights: &BTreeMap<ThreadId, u64>,
    times: &mut BTreeMap<ThreadId, CpuTime>,
) {
    let (Some(begin), Some(end)) = (tracked.clock_at_begin, tracked.clock_at_end) else { return };
    let of_process = || ThreadId { pid, tid: i32::MIN }..=ThreadId { pid, tid: i32::MAX };
    let known: u64 = times.range(of_process()).map(|(_, t)| known(t)).sum();
    let Some(rest) = end.checked_sub(begin).and_then(|all| all.checked_sub(known)) else { return };
    let unknown: Vec<ThreadId> = times
        .range(of_process())
        .filter(|(_, t)| **t == CpuTime::Unknown)
        .map(|(id, _)| *id)
        .collect();
    share(rest, &unknown, weights, times);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(u64, u64)]) -> Vec<Estimate> {
        let id = |i: usize| ThreadId { pid: 1, tid: i as i32 };
        rows.iter()
            .enumerate()
            .map(|(i, &(least, weight))| Estimate { id: id(i), least, weight })
            .collect()
    }

    fn shares(total: u64, rows: &[(u64, u64)]) -> Vec<(i32, u64)> {
        let mut all = shares_above(total, of(rows));
        all.sort_unstable();
        all.into_iter().map(|(id, ns)| (id.tid, ns)).collect()
    }

    #[test]
    fn missed_time_is_not_given_to_a_single_sample() {
        // A hundred short processes, whose clocks were last read at half of their 30 ms, and one
        // process whose clock was never read.
        let mut rows = vec![(15, 3); 100];
        rows.push((0, 1));
        let shared = shares(100 * 30 + 10, &rows);
        assert!(shared.iter().all(|(i, ns)| *ns == if *i == 100 { 10 } else { 30 }), "{shared:?}");
    }

    #[test]
    fn no_thread_gets_less_than_its_clock_showed() {
        assert_eq!(shares(100, &[(60, 1), (0, 1), (0, 3)]), [(1, 10), (2, 30)]);
        assert_eq!(shares(100, &[(60, 1), (60, 1)]), []);
        assert_eq!(shares(100, &[(0, 0)]), []);
        assert_eq!(shares(100, &[(0, 1), (30, 0)]), [(0, 70)]);
    }

    /// Above the kernel's limit on PIDs: no such process.
    const GONE: i32 = 2_000_000_000;

    fn own() -> (Processes, i32) {
        let process = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
        let mut processes = Processes::new(true);
        processes.add_root(process.clone());
        (processes, process.pid())
    }

    fn known_times(times: &BTreeMap<ThreadId, CpuTime>) -> Vec<(i32, CpuTime)> {
        times.iter().map(|(id, t)| (id.tid, *t)).collect()
    }

    #[test]
    fn threads_have_the_time_between_two_readings_and_share_the_rest() {
        let (mut all, pid) = own();
        for (tid, baseline, at_end) in [(-1, 0, Some(9)), (1, 100, Some(500)), (2, 0, None)] {
            all.add_thread(pid, tid, baseline);
            all.thread_mut(pid, tid).expect("added").at_end = at_end;
        }
        let reused = all.get_mut(pid).expect("followed");
        let mut third = reused.threads[&1].clone();
        third.reused = true;
        reused.threads.insert(3, third);
        let unknown = [-1, 2, 3].map(|tid| (tid, CpuTime::Unknown));
        let times = tally(&all, &BTreeMap::new());
        assert_eq!(times[&ThreadId { pid, tid: 1 }], CpuTime::Known(400));
        assert!(unknown.iter().all(|(tid, t)| times[&ThreadId { pid, tid: *tid }] == *t));

        // The process used 1000 ns, of which 600 are those of the others.
        let process = all.get_mut(pid).expect("followed");
        (process.clock_at_begin, process.clock_at_end) = (Some(50), Some(1050));
        let weights = [(2, 1), (3, 2)].map(|(tid, w)| (ThreadId { pid, tid }, w)).into();
        let [minus, first, second, third] = [0, 400, 200, 400].map(CpuTime::Known);
        let times = known_times(&tally(&all, &weights));
        assert_eq!(times, [(-1, minus), (1, first), (2, second), (3, third)]);
    }

    #[test]
    fn exited_children_get_the_time_that_their_parent_reaped() {
        let (mut all, pid) = own();
        let fork = events::Fork { pid: GONE, tid: GONE, parent_pid: pid, parent_tid: pid };
        all.forked(fork, 0, false);
        let parent = all.get_mut(pid).expect("followed");
        (parent.reaped_at_begin, parent.reaped_at_end) = (Some(10), Some(110));
        assert_eq!(reaped(&all), 100);
        // What the child and its own children had used before the recording is not of it.
        let child = all.get_mut(GONE).expect("followed");
        (child.clock_at_begin, child.reaped_at_begin) = (Some(30), Some(10));
        assert_eq!(reaped(&all), 60);
        all.add_thread(GONE, GONE + 1, 0);
        all.thread_mut(GONE, GONE + 1).expect("added").at_end = Some(20);
        let weights = [(ThreadId { pid: GONE, tid: GONE }, 5)].into();
        let times = known_times(&tally(&all, &weights));
        assert_eq!(times, [(GONE, CpuTime::Known(40)), (GONE + 1, CpuTime::Known(20))]);
        // A child that still runs was not reaped.
        all.get_mut(GONE).expect("followed").reaped_at_end = Some(10);
        assert_eq!(reaped(&all), 100);
    }

    #[test]
    fn threads_with_the_same_name_form_a_group() {
        let (mut all, pid) = own();
        for (tid, name) in [(1, "a"), (2, "b"), (3, "a")] {
            all.add_thread(pid, tid, 0);
            all.named(pid, tid, events::Comm { exec: false, name: name.as_bytes() }, 0);
        }
        let count = Count { samples: 3, weight: 7 };
        let counts = [(ThreadId { pid, tid: 2 }, count)].into();
        let times = [1, 2, 3, 4].map(|tid| (ThreadId { pid, tid }, CpuTime::Known(1)));
        let uses = thread_uses(&all, times, &counts);
        let groups: Vec<u32> = uses.iter().map(|u| u.group).collect();
        assert_eq!(groups, [0, 1, 0, u32::MAX]);
        assert_eq!((uses[0].count, uses[1].count), (Count::default(), count));
    }

    #[test]
    fn reads_the_time_that_a_thread_uses() {
        let (mut all, pid) = own();
        // PID/task/TID
        let link = std::fs::read_link("/proc/thread-self").expect("procfs");
        let tid = link.to_str().and_then(|l| l.rsplit('/').next()?.parse().ok()).expect("a TID");
        let process = all.get(pid).and_then(|t| t.process.clone()).expect("we live");
        let before = process.thread_cpu_time(tid).expect("we live");
        begin(&mut all, true);
        let from = process.thread_cpu_time(tid).expect("we live");
        while process.thread_cpu_time(tid).expect("we live") < from + 30_000_000 {}
        end(&mut all, true);
        let most = process.thread_cpu_time(tid).expect("we live") - before;
        let tracked = all.get(pid).expect("followed");
        let CpuTime::Known(ns) = tally(&all, &BTreeMap::new())[&ThreadId { pid, tid }] else {
            panic!("the thread still runs");
        };
        assert!((30_000_000..=most).contains(&ns), "{ns} of {most}");
        let of_process = tracked.clock_at_end.zip(tracked.clock_at_begin).map(|(e, b)| e - b);
        assert!(of_process.is_some_and(|ns| ns >= 30_000_000), "{of_process:?}");
        assert!(tracked.threads[&tid].user_share().is_some());
    }
}

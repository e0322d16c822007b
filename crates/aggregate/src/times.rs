//! How much CPU time each thread took during the recording.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use process::Process;

use crate::cputime::{CpuTime, ThreadUse};
use crate::ids::{Count, ThreadId};
use crate::processes::{Processes, Tracked};

/// Notes where the threads stand as the recording begins; with `modes`, also how their time
/// divides between user mode and the kernel.
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
            // What ended before is of no interest, and neither is what it counted.
            tracked.threads.retain(|_, t| !t.ended);
            begin_reaped(tracked, &process);
        }
    }
}

/// Notes where the threads stand as it ends, as [`begin`] did. Those of ended processes stay without.
pub fn end(processes: &mut Processes, modes: bool) {
    end_reaped(processes);
    for pid in processes.pids() {
        let Some(process) = processes.get(pid).and_then(|t| t.process.clone()) else { continue };
        for tid in process.threads().unwrap_or_default() {
            let Ok(ns) = process.thread_cpu_time(tid) else { continue };
            // A thread that nothing was heard of has time all the same.
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

/// Reads the clocks of the processes: one that exits leaves what was read last.
pub fn look_at_clocks(processes: &mut Processes) {
    for (_, tracked) in processes.iter_mut() {
        let now = tracked.process.as_ref().and_then(|p| p.process_cpu_time().ok());
        tracked.clock_at_end = now.or(tracked.clock_at_end);
    }
}

/// The CPU times of threads with what was sampled of each, grouped by the threads' names: see
/// [`ThreadUse::group`]. Threads that are not followed are a group.
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

/// The CPU time of every thread, as far as it is known. `weights` are the samples' own weights,
/// by which time is shared where only a sum is known.
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

/// Notes what the children took that the process has waited for before the recording.
pub fn begin_reaped(tracked: &mut Tracked, process: &Process) {
    tracked.clock_at_begin = process.process_cpu_time().ok();
    tracked.reaped_at_begin = process.reaped_children_cpu_time().ok();
}

/// Notes the same as the recording ends, of processes that live.
pub fn end_reaped(processes: &mut Processes) {
    for process in processes.living() {
        if let Some(tracked) = processes.get_mut(process.pid()) {
            tracked.reaped_at_end = process.reaped_children_cpu_time().ok();
        }
    }
}

/// The CPU time within the recording of children that the living have waited for, in nanoseconds,
/// and of those that these had waited for themselves. It is counted in ticks of 10 ms.
pub fn reaped(processes: &Processes) -> u64 {
    // As it stood at the end: the living go on, and so do children that exit since.
    let reaped = |tracked: &Tracked| tracked.reaped_at_end?.checked_sub(tracked.reaped_at_begin?);
    let total: u64 = processes.iter().filter_map(|(_, t)| reaped(t)).sum();
    // What a process took before the recording is added up with the rest when it is waited for.
    let before = |tracked: &Tracked| {
        tracked.clock_at_begin.unwrap_or(0) + tracked.reaped_at_begin.unwrap_or(0)
    };
    let waited_for = |t: &Tracked| {
        t.reaped_at_end.is_none() && t.parent.is_some_and(|p| processes.get(p).is_some())
    };
    let before: u64 = processes.iter().filter(|(_, t)| waited_for(t)).map(|(_, t)| before(t)).sum();
    total.saturating_sub(before)
}

/// What the living processes' exited children took, as it was added up when they were waited
/// for. What nobody counted of it is shared by the weight of the samples; but a process whose clock
/// was seen before it exited took no less than that.
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

/// A thread of which only samples and a lower bound of its time are known.
struct Estimate {
    id: ThreadId,
    /// In nanoseconds.
    least: u64,
    weight: u64,
}

/// Shares nanoseconds by weight so that everyone has its least; nothing where these are all there
/// is.
fn shares_above(total: u64, mut of: Vec<Estimate>) -> Vec<(ThreadId, u64)> {
    let without_samples: u64 = of.iter().filter(|e| e.weight == 0).map(|e| e.least).sum();
    of.retain(|e| e.weight > 0);
    // Those with the most for their weight first: they keep what they have, and the rest shares
    // what is left, as soon as that gives each of them no less than it has.
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

/// Shares time among threads by the weight of their samples.
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
    // A sample on the way out of a thread that has lost its number bears -1.
    let Some(t) = tracked.threads.get(&tid).filter(|_| tid > 0) else { return CpuTime::Unknown };
    // Of two threads with one number only the second's time can be read.
    let at_end = t.at_end.filter(|_| !t.reused);
    at_end.map_or(CpuTime::Unknown, |ns| CpuTime::Known(ns.saturating_sub(t.baseline)))
}

/// A process' own clock tells what its unknown threads took together.
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
    fn what_clocks_missed_is_no_single_samples() {
        // A hundred short processes, each seen up to half of its 30 ms, and one that was not seen.
        let mut rows = vec![(15, 3); 100];
        rows.push((0, 1));
        let shared = shares(100 * 30 + 10, &rows);
        assert!(shared.iter().all(|(i, ns)| *ns == if *i == 100 { 10 } else { 30 }), "{shared:?}");
    }

    #[test]
    fn nobody_gets_less_than_its_clock_showed() {
        assert_eq!(shares(100, &[(60, 1), (0, 1), (0, 3)]), [(1, 10), (2, 30)]);
        assert_eq!(shares(100, &[(60, 1), (60, 1)]), []);
        assert_eq!(shares(100, &[(0, 0)]), []);
        assert_eq!(shares(100, &[(0, 1), (30, 0)]), [(0, 70)]);
    }
}

//! Records the `cpu` profile: where threads spend their CPU time.

use std::collections::BTreeMap;

use aggregate::cputime::{self, CpuTime, ThreadUse, UNSAMPLED};
use aggregate::ids::{Count, CountKey, ROOT, ThreadId};
use aggregate::processes::NamedThread;
use aggregate::times;
use assemble::Stats;
use assemble::builder::Valued;
use assemble::conclude::{Header, Targets};
use assemble::symbols::SymbolLosses;
use pprof::kinds::CPU;

use super::attach::AttachError;
use super::sampling::{Recording, Sampling};
use crate::collector::{Collector, Progress, Request};
use crate::options::Backend;
use crate::outcome::{Ended, Outcome, RecordError};
use crate::ptrace::ticked;

/// The frame that stands for CPU time in the kernel if only user mode may be sampled.
const KERNEL_TIME: &str = "[kernel, not sampled]";

/// Attaches to the targets for a CPU profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    if request.options.backend == Backend::Ptrace {
        return ticked::prepare_cpu(request, None);
    }
    // Keep the targets' roots open: we search them for debug files after the targets have exited.
    let targets = request.targets();
    let sampling = match Sampling::attach(request.family(), request.options) {
        Ok(sampling) => sampling,
        // Don't fall back if the user asked for kernel frames: ptrace cannot record them.
        Err(e @ (AttachError::NotPermitted(_) | AttachError::Blocked { .. }))
            if request.options.backend == Backend::Auto
                && request.options.kernel != Some(true)
                && !request.before_exec =>
        {
            let by_ptrace = ticked::prepare_cpu(request, Some(e.to_string()));
            return by_ptrace.map_err(|_| e.into());
        }
        Err(e) => return Err(e.into()),
    };
    Ok(Box::new(Cpu { targets, period: request.options.period(), sampling }))
}

/// Fewer missing samples than this may be due to chance.
const MANY_MISSING: i64 = 20;

struct Cpu {
    targets: Targets,
    /// Nanoseconds.
    period: u64,
    sampling: Sampling,
}

impl Collector for Cpu {
    fn begin(&mut self) -> Result<(), RecordError> {
        self.sampling.begin();
        Ok(())
    }

    fn poll(&mut self) -> Progress {
        self.sampling.poll()
    }

    fn any_alive(&mut self) -> bool {
        self.sampling.any_alive()
    }

    fn end(&mut self) {
        self.sampling.end();
    }

    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        let Self { targets, period, sampling } = *self;
        let mut recording = sampling.finish();
        let samples = valued_samples(&mut recording, period);
        let named = targets.name(&mut recording.recorder);
        let mut stats = stats(&recording, &named.losses);
        stats.notes.extend(missing_samples(&recording, &samples, period));
        let header = Header { kind: &CPU, period, time: recording.time };
        let profile = targets.build(&header, (&recording.recorder, &named), &stats, &samples)?;
        Ok(Outcome { profile, stats, ended })
    }
}

/// Reports samples that were not taken. The kernel does not run a BPF program while another one
/// runs on the same CPU, and an event whose program does not run takes no sample. So the cost of
/// another tool's probe appears in no stack.
fn missing_samples(recording: &Recording, samples: &[Valued], period: u64) -> Option<String> {
    let recorder = &recording.recorder;
    let programs = recorder.runtimes.with_programs()?;
    let sum = |i: usize| samples.iter().filter_map(|s| s.values.get(i)).sum::<i64>();
    let (taken, ns) = (sum(0), sum(1));
    let due = ns / i64::try_from(period.max(1)).ok()?;
    let missing = due - taken;
    (missing >= MANY_MISSING && missing * 5 > due).then(|| {
        format!(
            "{missing} of {due} samples were not taken: the kernel does not sample {programs} \
             programs while another tool's BPF program is running on the CPU"
        )
    })
}

fn stats(recording: &Recording, symbols: &SymbolLosses) -> Stats {
    let r = &recording.recorder;
    let uncovered = match recording.attached.uncovered {
        0 => None,
        1 => Some("1 thread was not sampled: the program creates threads too fast".to_owned()),
        n => Some(format!("{n} threads were not sampled: the program creates threads too fast")),
    };
    Stats {
        backend: recording.attached.backend(),
        kernel_names: symbols.kernel.clone(),
        reattach_failed: recording.reattach_failed.clone(),
        notes: uncovered
            .into_iter()
            .chain(r.runtime_notes())
            .chain(r.processes.family_notes().iter().cloned())
            .chain(assemble::debuginfod::failures())
            .collect(),
        ..Stats::new(recording.facts.clone(), symbols)
    }
}

/// Turns counts into samples with two values: the sample count and CPU time in nanoseconds.
fn valued_samples(recording: &mut Recording, period: u64) -> Vec<Valued> {
    let recorder = &mut recording.recorder;
    let counts = std::mem::take(&mut recorder.counts).sorted();
    let named = recorder.processes.named_threads().to_vec();
    let mut uses = thread_uses(recording, &named, &counts);
    let in_kernel = take_kernel_time(recording, &mut uses);
    let weights = cputime::weigh(&uses, 1.0, period);
    let mut samples = Vec::with_capacity(counts.len());
    let mut carry: BTreeMap<ThreadId, f64> = BTreeMap::new();
    for (key, count) in counts {
        let thread = &named[key.thread as usize];
        // Carry the rounding error over to the thread's next stack, so that sums are exact.
        let rest = carry.entry(thread.id).or_default();
        let exact = weights.per_unit(thread.id) * count.weight as f64 + *rest;
        let ns = exact.round().max(0.0);
        *rest = exact - ns;
        let values = vec![i64::try_from(count.samples).unwrap_or(i64::MAX), ns as i64];
        let labels = recording.recorder.labels.get(key.labels).to_vec();
        samples.push(Valued { thread: thread.clone(), stack: key.stack, labels, values });
    }
    samples.extend(without_samples(recording, &weights.unsampled, UNSAMPLED));
    samples.extend(without_samples(recording, &in_kernel, KERNEL_TIME));
    samples
}

/// Subtracts each thread's time in the kernel from its CPU time and returns it separately. If the
/// kernel may not be sampled, samples only show how the time in user mode is distributed.
fn take_kernel_time(recording: &Recording, uses: &mut [ThreadUse]) -> Vec<(ThreadId, u64)> {
    if !recording.attached.user_only {
        return Vec::new();
    }
    let processes = &recording.recorder.processes;
    let mut in_kernel = Vec::new();
    for u in uses {
        let thread = processes.get(u.id.pid).and_then(|p| p.threads.get(&u.id.tid));
        let share = thread.and_then(|t| t.user_share());
        if let (CpuTime::Known(ns), Some(share)) = (u.time, share) {
            let user = (ns as f64 * share) as u64;
            u.time = CpuTime::Known(user);
            in_kernel.push((u.id, ns.saturating_sub(user)));
        }
    }
    in_kernel.retain(|(_, ns)| *ns > 0);
    in_kernel
}

/// Makes samples of CPU time for which there are no stacks, with `marker` as their only frame.
fn without_samples(
    recording: &mut Recording,
    times: &[(ThreadId, u64)],
    marker: &str,
) -> Vec<Valued> {
    let recorder = &mut recording.recorder;
    let mut samples = Vec::new();
    for &(id, ns) in times {
        let Some(tracked) = recorder.processes.get(id.pid) else { continue };
        let name = tracked.threads.get(&id.tid).map_or(&tracked.name, |t| &t.name).clone();
        let (process, container) = (tracked.name.clone(), tracked.container.clone());
        let thread = NamedThread { id, name, process, container };
        let stack = recorder.marker(ROOT, marker.into());
        let values = vec![0, i64::try_from(ns).unwrap_or(i64::MAX)];
        samples.push(Valued { thread, stack, labels: Vec::new(), values });
    }
    samples
}

fn thread_uses(
    recording: &Recording,
    named: &[NamedThread],
    counts: &[(CountKey, Count)],
) -> Vec<ThreadUse> {
    let mut by_thread: BTreeMap<ThreadId, Count> = BTreeMap::new();
    for (key, count) in counts {
        let sum = by_thread.entry(named[key.thread as usize].id).or_default();
        sum.samples += count.samples;
        sum.weight += count.weight;
    }
    let weights = by_thread.iter().map(|(id, c)| (*id, c.weight)).collect();
    let processes = &recording.recorder.processes;
    let mut times = times::tally(processes, &weights);
    for id in by_thread.keys() {
        times.entry(*id).or_insert(CpuTime::Unknown);
    }
    times::thread_uses(processes, times, &by_thread)
}

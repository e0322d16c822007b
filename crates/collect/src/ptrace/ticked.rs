//! Makes the profiles that [`super::ticks`] samples: `wall`, and `cpu` where perf events are
//! not permitted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use aggregate::clock::{monotonic_now, unix_now};
use aggregate::cputime::{self, CpuTime, UNSAMPLED};
use aggregate::family::Family;
use aggregate::ids::{Count, ThreadId};
use aggregate::recorder::Recorder;
use aggregate::rings::RecordingFacts;
use aggregate::times;
use assemble::Stats;
use assemble::builder::Valued;
use assemble::conclude::{Header, Targets};
use pprof::KindFacts;
use process::{Threads, Tracer};

use super::children::ChildOptions;
use super::sums;
use super::ticks::{SamplerState, Ticker};
use crate::collector::{Collector, Progress, Request};
use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};
use crate::plural::counted;

/// Less CPU time than this is not reported as unseen: the kernel adds up the CPU time of children
/// in ticks of 10 ms, for each of their parents.
const MIN_UNSEEN: Duration = Duration::from_millis(50);

/// Prepares the wall-clock profile of all threads, including blocked ones.
pub(crate) fn prepare_wall(
    request: &Request<'_>,
    facts: KindFacts,
) -> Result<Box<dyn Collector>, RecordError> {
    prepare(request, facts, sums::Count::Wall, None)
}

/// Prepares the CPU profile with ptrace. `why` says why perf events are not used, unless the user
/// chose ptrace.
pub(crate) fn prepare_cpu(
    request: &Request<'_>,
    why: Option<String>,
) -> Result<Box<dyn Collector>, RecordError> {
    prepare(request, pprof::kinds::CPU, sums::Count::Cpu, why)
}

fn prepare(
    request: &Request<'_>,
    facts: KindFacts,
    count: sums::Count,
    why: Option<String>,
) -> Result<Box<dyn Collector>, RecordError> {
    if request.options.no_stop {
        let why = match count {
            sums::Count::Wall => {
                "wall must briefly stop running threads, which --no-stop forbids; use cpu and \
                 block instead"
            }
            sums::Count::Cpu => {
                "cpu by ptrace must briefly stop running threads, which --no-stop forbids; use \
                 --backend perf instead"
            }
        };
        return Err(RecordError::NotApplicable(why.into()));
    }
    // Stopping is tried first: without the permission to stop threads there is no profile.
    for root in request.roots.iter().filter(|_| !request.before_exec) {
        let tried = Tracer::run(|t| t.seize(root, Threads::Only(&[root.pid()])).map(drop));
        tried.map_err(|source| crate::perf::attach::AttachError::System {
            what: "start a thread",
            source,
        })??;
    }
    Ok(Box::new(Ticked {
        targets: request.targets(),
        family: request.family().clone(),
        options: request.options.clone(),
        facts,
        count,
        why,
        shared: Arc::default(),
        running: None,
        begin: 0,
        time: 0,
        elapsed: Duration::ZERO,
    }))
}

struct Ticked {
    targets: Targets,
    /// The targets and the children they forked before the recording.
    family: Family,
    options: RecordOptions,
    facts: KindFacts,
    count: sums::Count,
    why: Option<String>,
    shared: Arc<SamplerState>,
    running: Option<JoinHandle<std::io::Result<Ticker>>>,
    begin: u64,
    time: i64,
    elapsed: Duration,
}

impl Collector for Ticked {
    fn begin(&mut self) -> Result<(), RecordError> {
        let mut recorder = Recorder::new(false, self.options.period());
        recorder.processes.add_family(&self.family);
        for process in &self.family.processes {
            recorder.processes.refresh_maps(process, monotonic_now());
            if let Some(tracked) = recorder.processes.get_mut(process.pid()) {
                times::begin_reaped(tracked, process);
            }
        }
        let options = &self.options;
        let children = ChildOptions { forked: options.children, existing: options.descendants };
        let ticker = Ticker::new(&self.family.processes, self.count, recorder, children);
        let (shared, period) = (self.shared.clone(), Duration::from_nanos(self.options.period()));
        self.begin = monotonic_now();
        self.time = unix_now();
        self.shared.alive.store(true, Ordering::SeqCst);
        let thread = std::thread::Builder::new().name("sampler".into());
        let running = thread.spawn(move || ticker.run(period, &shared));
        self.running = Some(running.map_err(|source| {
            crate::perf::attach::AttachError::System { what: "start a thread", source }
        })?);
        Ok(())
    }

    fn poll(&mut self) -> Progress {
        let samples = self.shared.samples.load(Ordering::Relaxed);
        Progress { samples, ..Progress::default() }
    }

    fn any_alive(&mut self) -> bool {
        self.shared.alive.load(Ordering::SeqCst)
    }

    fn end(&mut self) {
        self.shared.stop();
        self.elapsed = Duration::from_nanos(monotonic_now() - self.begin);
    }

    fn finish(mut self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        let failed = |source| crate::perf::attach::AttachError::System {
            what: "sample with ptrace",
            source,
        };
        let running =
            self.running.take().ok_or_else(|| failed(std::io::ErrorKind::Other.into()))?;
        let joined = running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut ticker = joined.map_err(failed)?;
        let samples = match self.count {
            sums::Count::Wall => wall_samples(&mut ticker),
            sums::Count::Cpu => cpu_samples(&mut ticker, self.options.period()),
        };
        let named = self.targets.name(&mut ticker.recorder);
        let stats = Stats {
            backend: self.backend(),
            notes: self.notes(&ticker),
            ..Stats::new(RecordingFacts::of(&ticker.recorder, self.elapsed), &named.losses)
        };
        let period = self.options.period();
        let header = Header { kind: &self.facts, period, time: self.time };
        let recorded = (&ticker.recorder, &named);
        let profile = self.targets.build(&header, recorded, &stats, &samples)?;
        Ok(Outcome { profile, stats, ended })
    }
}

impl Drop for Ticked {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Ticked {
    fn backend(&self) -> String {
        match self.count {
            sums::Count::Cpu => "ptrace: running threads are briefly stopped, user mode only",
            sums::Count::Wall => {
                "wall clock: sleeping threads from /proc, running ones briefly stopped (ptrace)"
            }
        }
        .to_owned()
    }

    fn notes(&self, ticker: &Ticker) -> Vec<String> {
        let mut notes: Vec<String> =
            self.why.iter().map(|why| format!("perf events cannot be used: {why}")).collect();
        let mut stops = ticker.stops.clone();
        stops.sort_unstable();
        let sum: u64 = stops.iter().map(|us| u64::from(*us)).sum();
        let share = sum as f64 / self.elapsed.as_micros().max(1) as f64 * 100.0;
        notes.push(format!(
            "threads were stopped {}: {} µs median, {} µs maximum, {share:.1} % of the time in \
             total",
            counted(stops.len() as u64, "time"),
            stops.get(stops.len() / 2).copied().unwrap_or(0),
            stops.last().copied().unwrap_or(0),
        ));
        notes.extend_from_slice(ticker.recorder.processes.family_notes());
        notes.extend(ticker.children.notes());
        let unseen = Duration::from_nanos(ticker.unseen_cpu_time());
        if self.options.children && unseen > MIN_UNSEEN {
            notes.push(format!(
                "{} ms of CPU time of child processes that ended was not sampled: they ended too \
                 soon, or used it just before they ended",
                unseen.as_millis()
            ));
        }
        notes.extend(ticker.recorder.runtime_notes());
        let failed = |(why, n): (&String, &u64)| format!("{} failed: {why}", counted(*n, "stop"));
        notes.extend(ticker.refused.iter().map(failed));
        notes
    }
}

fn wall_samples(ticker: &mut Ticker) -> Vec<Valued> {
    let named = ticker.recorder.processes.named_threads();
    let valued = |((thread, (stack, labels, state)), sum): (&sums::Key, &sums::Sum)| {
        let mut labels = ticker.recorder.labels.get(*labels).to_vec();
        let ours = ("state".into(), ticker.states[*state].as_str().into());
        // A label `state` that the program set itself takes precedence, as in all profiles.
        if labels.iter().all(|(key, _)| **key != *"state") {
            labels.push(ours);
        }
        let values = vec![sum.samples as i64, i64::try_from(sum.ns).unwrap_or(i64::MAX)];
        Valued { thread: named[*thread as usize].clone(), stack: *stack, labels, values }
    };
    ticker.sums.iter().map(valued).collect()
}

/// Weights each thread's samples so that they add up to its CPU time.
fn cpu_samples(ticker: &mut Ticker, period: u64) -> Vec<Valued> {
    let named = ticker.recorder.processes.named_threads().to_vec();
    let mut counts: BTreeMap<ThreadId, Count> = BTreeMap::new();
    for ((thread, ..), sum) in &ticker.sums {
        let count = counts.entry(named[*thread as usize].id).or_default();
        count.samples += sum.samples;
        count.weight += sum.samples;
    }
    let times = ticker.cpu_times().into_iter().map(|(id, ns)| (id, CpuTime::Known(ns)));
    let uses = times::thread_uses(&ticker.recorder.processes, times, &counts);
    let weights = cputime::weigh(&uses, period as f64, period);
    let mut samples: Vec<Valued> = ticker
        .sums
        .iter()
        .map(|((thread, (stack, labels, _)), sum)| {
            let thread = named[*thread as usize].clone();
            let ns = weights.per_unit(thread.id) * sum.samples as f64;
            let values = vec![sum.samples as i64, ns.round() as i64];
            let labels = ticker.recorder.labels.get(*labels).to_vec();
            Valued { thread, stack: *stack, labels, values }
        })
        .collect();
    for &(id, ns) in &weights.unsampled {
        let stack = ticker.marker(UNSAMPLED);
        if let Some(thread) = ticker.recorder.processes.sampled(id.pid, id.tid) {
            let thread = ticker.recorder.processes.named_threads()[thread as usize].clone();
            let values = vec![0, i64::try_from(ns).unwrap_or(i64::MAX)];
            samples.push(Valued { thread, stack, labels: Vec::new(), values });
        }
    }
    samples
}

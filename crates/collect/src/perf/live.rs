//! A CPU recording that goes on, looked at every now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregate::contexts::StackTree;
use aggregate::family::Family;
use aggregate::ids::{Count, CountKey, FrameKey, Function, Place};
use aggregate::processes::Processes;
use aggregate::recorder::Recorder;
use assemble::builder::{Assembler, Tables, Valued};
use assemble::conclude::Header;
use assemble::debugfiles::TargetFiles;
use assemble::symbols::{Namer, Resolved};
use pprof::Profile;
use pprof::kinds::CPU;
use process::Process;

use super::sampling::Sampling;
use crate::collector::Progress;
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// With more calling contexts the tree begins anew: it is kept for hours.
const MAX_NODES: usize = 200_000;

/// Looking up names may take this part of the time, beyond what it may take at first. Each look-up
/// reads whole symbol tables, and new addresses come all the time: so they wait for each other,
/// the longer the dearer a look-up is.
const NAMING_SHARE: u32 = 200;
const NAMING_AT_FIRST: Duration = Duration::from_secs(1);

/// Debug sections that are held in plain, in bytes: those of libc and its like, not those of a
/// browser.
const MAX_DECOMPRESSED: u64 = 48 << 20;

/// A CPU recording that goes on.
pub struct Live {
    sampling: Sampling,
    files: TargetFiles,
    options: RecordOptions,
    names: Names,
    /// The processes' CPU times at the last look, in nanoseconds.
    clocks: BTreeMap<i32, u64>,
    begin: Instant,
    since: Instant,
    seen: Progress,
}

/// What was sampled between two looks.
#[derive(Debug)]
pub struct Interval {
    /// The samples, with the labels and types of a recorded CPU profile.
    pub profile: Profile,
    /// How long it was.
    pub elapsed: Duration,
    /// CPU time that the processes used in it.
    pub cpu: Duration,
    /// Samples in it.
    pub samples: u64,
    /// Records lost in it.
    pub lost: u64,
    /// Threads alive at its end.
    pub threads: usize,
}

impl Live {
    /// Attaches to the targets, and begins.
    ///
    /// # Errors
    /// The targets cannot be sampled.
    pub fn attach(roots: &[Arc<Process>], options: &RecordOptions) -> Result<Self, RecordError> {
        let family = Family::of(roots, options.children && options.descendants);
        let files = TargetFiles::of(&family.processes);
        let mut sampling = Sampling::attach(&family, options)?;
        sampling.begin();
        let mut live = Self {
            sampling,
            files,
            options: options.clone(),
            names: Names::default(),
            clocks: BTreeMap::new(),
            begin: Instant::now(),
            since: Instant::now(),
            seen: Progress::default(),
        };
        let (recorder, _) = live.sampling.take();
        live.clocks = clocks(&recorder.processes);
        Ok(live)
    }

    /// Reads what has come; to be called several times within what a ring holds.
    pub fn poll(&mut self) -> Progress {
        self.sampling.poll()
    }

    /// Whether a followed process still runs.
    pub fn someone_lives(&mut self) -> bool {
        self.sampling.someone_lives()
    }

    /// What was sampled since the last look.
    ///
    /// # Errors
    /// The profile exceeds what its format can hold.
    pub fn take(&mut self) -> Result<Interval, RecordError> {
        let now = self.sampling.poll();
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let seen = std::mem::replace(&mut self.seen, now);
        let (recorder, counts) = self.sampling.take();
        let counts = counts.sorted();
        let before = std::mem::replace(&mut self.clocks, clocks(&recorder.processes));
        let used = |pid: i32, now: u64| now.saturating_sub(before.get(&pid).copied().unwrap_or(0));
        let used: BTreeMap<i32, u64> =
            self.clocks.iter().map(|(pid, now)| (*pid, used(*pid, *now))).collect();
        self.names.look_up(recorder, &self.files, self.begin.elapsed());
        let samples = valued(recorder, &counts, &used);
        let tables = Tables {
            tree: &recorder.tree,
            resolved: &self.names.resolved,
            mappings: &recorder.mappings,
            runtimes: &recorder.runtimes,
            main: None,
            label_processes: self.options.children,
        };
        let header = Header { kind: &CPU, period: self.options.period(), time: 0 };
        let profile = Assembler::new(tables, header.builder(elapsed))?.assemble(&samples)?;
        if recorder.tree.context_count() > MAX_NODES {
            recorder.tree = StackTree::default();
            self.names.begin_anew();
        }
        Ok(Interval {
            profile,
            elapsed,
            cpu: Duration::from_nanos(used.values().sum()),
            samples: now.samples.saturating_sub(seen.samples),
            lost: now.lost.saturating_sub(seen.lost),
            threads: living_threads(&recorder.processes),
        })
    }
}

fn living_threads(processes: &Processes) -> usize {
    processes.iter().flat_map(|(_, t)| t.threads.values()).filter(|t| !t.ended).count()
}

fn clocks(processes: &Processes) -> BTreeMap<i32, u64> {
    let clock = |p: &Arc<Process>| p.process_cpu_time().ok();
    (processes.iter())
        .filter_map(|(pid, t)| Some((pid, t.process.as_ref().and_then(clock)?)))
        .collect()
}

/// Samples with values. As in a recording, samples say how a process' CPU time is shared, and its
/// clock how much there was; of a process whose clock cannot be read their own weight counts.
fn valued(
    recorder: &Recorder,
    counts: &[(CountKey, Count)],
    used: &BTreeMap<i32, u64>,
) -> Vec<Valued> {
    let named = recorder.processes.named_threads();
    let mut weights: BTreeMap<i32, u64> = BTreeMap::new();
    for (key, count) in counts {
        *weights.entry(named[key.thread as usize].id.pid).or_default() += count.weight;
    }
    let factor = |pid: i32| match (used.get(&pid), weights.get(&pid)) {
        (Some(&ns), Some(&weight)) if ns > 0 && weight > 0 => ns as f64 / weight as f64,
        _ => 1.0,
    };
    let valued = counts.iter().map(|(key, count)| {
        let thread = named[key.thread as usize].clone();
        let labels = recorder.labels.get(key.labels).to_vec();
        let ns = (count.weight as f64 * factor(thread.id.pid)).round();
        let values = vec![i64::try_from(count.samples).unwrap_or(i64::MAX), ns as i64];
        Valued { thread, stack: key.stack, labels, values }
    });
    valued.collect()
}

/// The names of frames, as far as they are looked up.
struct Names {
    /// For each frame of the tree what is known of it.
    resolved: Vec<Resolved>,
    /// Frames that wait for their names.
    waiting: Vec<usize>,
    namer: Namer,
    /// How long look-ups have taken.
    spent: Duration,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            resolved: Vec::new(),
            waiting: Vec::new(),
            namer: Namer::keeping(MAX_DECOMPRESSED),
            spent: Duration::ZERO,
        }
    }
}

impl Names {
    /// For another tree. What images hold stays known.
    fn begin_anew(&mut self) {
        self.resolved = Vec::new();
        self.waiting = Vec::new();
    }

    fn look_up(&mut self, recorder: &Recorder, files: &TargetFiles, running: Duration) {
        let frames = recorder.tree.frames();
        for (at, frame) in frames.iter().enumerate().skip(self.resolved.len()) {
            self.waiting.push(at);
            let functions = vec![Function::named(place_holder(recorder, frame))];
            self.resolved.push(Resolved { functions, ..Resolved::default() });
        }
        if self.waiting.is_empty() || self.spent > NAMING_AT_FIRST + running / NAMING_SHARE {
            return;
        }
        let begin = Instant::now();
        let waiting = std::mem::take(&mut self.waiting);
        let wanted: Vec<FrameKey> = waiting.iter().map(|at| frames[*at]).collect();
        let (names, _) = self.namer.name(&wanted, recorder.into(), files);
        for (at, name) in waiting.into_iter().zip(names) {
            self.resolved[at] = name;
        }
        self.spent += begin.elapsed();
    }
}

/// What a frame is called until its name is looked up.
fn place_holder(recorder: &Recorder, frame: &FrameKey) -> String {
    let file = match frame.place {
        Place::User(id) | Place::Runtime { mapping: Some(id), .. } => {
            recorder.mappings.get(&id).map(|m| &*m.name)
        }
        Place::Runtime { runtime, mapping: None, .. } => {
            Some(recorder.runtimes.mapping(runtime).trim_matches(['[', ']']))
        }
        Place::Kernel => Some("kernel"),
        Place::Unmapped | Place::Marker => None,
    };
    let file = file.and_then(|name| name.rsplit('/').next()).unwrap_or("unknown");
    format!("[{file}, not named yet]")
}

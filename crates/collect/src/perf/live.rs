//! Records a CPU profile continuously and returns the samples of each interval, as `top` shows
//! them.

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

/// The limit of calling contexts. Above it the tree is cleared, since a recording may run for
/// hours.
const MAX_NODES: usize = 200_000;

/// Symbolization may take one part in `NAMING_SHARE` of the time, beyond `NAMING_AT_FIRST`. Each
/// batch reads whole symbol tables, and new addresses arrive all the time. So they are collected,
/// the longer the more a batch costs.
const NAMING_SHARE: u32 = 200;
const NAMING_AT_FIRST: Duration = Duration::from_secs(1);

/// The limit in bytes for debug sections that are kept uncompressed: enough for libraries like
/// libc, not for a browser.
const MAX_DECOMPRESSED: u64 = 48 << 20;

/// A continuous CPU recording.
pub struct Live {
    sampling: Sampling,
    files: TargetFiles,
    options: RecordOptions,
    names: Names,
    /// Each process' CPU time at the end of the last interval, in nanoseconds, by PID.
    clocks: BTreeMap<i32, u64>,
    begin: Instant,
    since: Instant,
    seen: Progress,
}

/// The samples of one interval, between two calls of [`Live::take`].
#[derive(Debug)]
pub struct Interval {
    /// The samples, with the labels and types of a recorded CPU profile.
    pub profile: Profile,
    /// The length of the interval.
    pub elapsed: Duration,
    /// CPU time that the processes used in the interval.
    pub cpu: Duration,
    /// Number of samples in the interval.
    pub samples: u64,
    /// Records lost in the interval.
    pub lost: u64,
    /// Threads alive at the end of the interval.
    pub threads: usize,
}

impl Live {
    /// Attaches to the targets and starts recording.
    ///
    /// # Errors
    /// [`RecordError`] if the targets cannot be sampled.
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

    /// Reads new records. Call it several times in the time that fills a ring buffer.
    pub fn poll(&mut self) -> Progress {
        self.sampling.poll()
    }

    /// Whether a followed process is still alive.
    pub fn any_alive(&mut self) -> bool {
        self.sampling.any_alive()
    }

    /// Returns the samples since the last call.
    ///
    /// # Errors
    /// [`RecordError::Build`] if the profile exceeds what its format can hold.
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
            self.names.reset();
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

/// Gives each sample its values. As in a recording, a process' CPU clock says how much time it
/// used, and samples say how that time is distributed. If the clock cannot be read, the samples'
/// own weight counts.
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

/// The names of frames, as far as they have been symbolized.
struct Names {
    /// The names of each frame of the tree; a placeholder until the frame is symbolized.
    resolved: Vec<Resolved>,
    /// Indices of frames that are not symbolized yet.
    waiting: Vec<usize>,
    namer: Namer,
    /// The total time that symbolization has taken.
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
    /// Prepares for another tree. Keeps what is known about images.
    fn reset(&mut self) {
        self.resolved = Vec::new();
        self.waiting = Vec::new();
    }

    fn look_up(&mut self, recorder: &Recorder, files: &TargetFiles, running: Duration) {
        let frames = recorder.tree.frames();
        for (at, frame) in frames.iter().enumerate().skip(self.resolved.len()) {
            self.waiting.push(at);
            let functions = vec![Function::named(placeholder(recorder, frame))];
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

/// The name of a frame until it is symbolized.
fn placeholder(recorder: &Recorder, frame: &FrameKey) -> String {
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
    format!("[{file}, not symbolized yet]")
}

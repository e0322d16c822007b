//! Groups stacks by thread, for viewers with one track per thread.

use std::collections::{BTreeMap, HashMap};

use pprof::{Label, LabelValue};

use crate::graph::{Graph, NodeId};
use crate::labels::is_thread_name;
use crate::report::Report;

/// The lightest threads beyond this number share a track, because viewers list all tracks.
const MAX_TRACKS: usize = 500;

/// Identifies a thread by the labels of its samples.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Thread {
    pub(super) pid: u32,
    pub(super) process: String,
    pub(super) tid: u32,
    pub(super) name: String,
}

/// The stacks of a thread.
#[derive(Debug, Default)]
pub(super) struct Track {
    pub(super) thread: Thread,
    /// The weight of each stack, whose frames start at the root.
    pub(super) stacks: BTreeMap<Vec<NodeId>, i64>,
    /// The sum of absolute weights.
    pub(super) weight: u64,
}

impl Thread {
    /// Reads the labels that exoprof writes, and their names in other profilers.
    fn of<'l>(labels: impl Iterator<Item = &'l Label>) -> Self {
        let mut thread = Self::default();
        for label in labels {
            match (&*label.key, &label.value) {
                (key, LabelValue::Text(text)) if is_thread_name(key) => {
                    thread.name = text.to_string();
                }
                ("process" | "comm", LabelValue::Text(text)) => thread.process = text.to_string(),
                ("thread_id" | "tid", value) => thread.tid = number(value),
                ("pid", value) => thread.pid = number(value),
                _ => {}
            }
        }
        thread
    }

    /// The name in a list of threads.
    pub(super) fn display_name(&self) -> String {
        let mut name = match (self.name.is_empty(), self.tid) {
            (true, 0) => "(no thread)".to_owned(),
            (true, tid) => format!("thread {tid}"),
            (false, 0) => self.name.clone(),
            (false, tid) => format!("{} ({tid})", self.name),
        };
        if !self.process.is_empty() && self.process != self.name {
            name = format!("{}: {name}", self.process);
        }
        printable::line(&name).into_owned()
    }
}

fn number(value: &LabelValue) -> u32 {
    match value {
        LabelValue::Text(text) => text.parse().unwrap_or(0),
        LabelValue::Number { value, .. } => u32::try_from(*value).unwrap_or(0),
    }
}

impl Report<'_> {
    /// The tracks, the heaviest first.
    pub(super) fn tracks(&self, graph: &Graph) -> Vec<Track> {
        let mut at: HashMap<Thread, usize> = HashMap::new();
        let mut tracks: Vec<Track> = Vec::new();
        for sample in self.work.samples() {
            let stack: Vec<NodeId> = graph.frames_from_root(sample).map(|(id, _)| id).collect();
            let weight = sample.value(self.value);
            if weight == 0 || stack.is_empty() {
                continue;
            }
            let thread = Thread::of(self.work.labels(sample));
            let at = *at.entry(thread).or_insert_with_key(|thread| {
                tracks.push(Track { thread: thread.clone(), ..Track::default() });
                tracks.len() - 1
            });
            tracks[at].add(stack, weight);
        }
        // Differences may cancel out.
        tracks.iter_mut().for_each(|track| track.stacks.retain(|_, sum| *sum != 0));
        tracks.retain(|track| !track.stacks.is_empty());
        tracks.sort_by(|a, b| (b.weight, &a.thread).cmp(&(a.weight, &b.thread)));
        if tracks.len() > MAX_TRACKS {
            let light = tracks.split_off(MAX_TRACKS - 1);
            let name = format!("({} lighter threads)", light.len());
            tracks.push(merged(Thread { name, ..Thread::default() }, light));
        }
        tracks
    }
}

impl Track {
    fn add(&mut self, stack: Vec<NodeId>, weight: i64) {
        let sum = self.stacks.entry(stack).or_default();
        *sum = sum.saturating_add(weight);
        self.weight = self.weight.saturating_add(weight.unsigned_abs());
    }
}

/// Merges tracks.
pub(super) fn merged(thread: Thread, tracks: impl IntoIterator<Item = Track>) -> Track {
    let mut all = Track { thread, ..Track::default() };
    for track in tracks {
        for (stack, weight) in track.stacks {
            all.add(stack, weight);
        }
    }
    all
}

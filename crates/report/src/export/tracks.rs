//! The stacks of each thread, as viewers with a row for each thread want them.

use std::collections::{BTreeMap, HashMap};

use pprof::{Label, LabelValue, SampleRef};

use crate::graph::{Graph, NodeId};
use crate::report::Report;

/// Threads beyond this number share a track: the list of a viewer is no place for more.
const MAX_TRACKS: usize = 500;

/// Whose samples are together.
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
    /// Frames from the root, with the sum of their weights: each stack once, in order.
    pub(super) stacks: BTreeMap<Vec<NodeId>, i64>,
    /// The sum of absolute weights.
    pub(super) weight: u64,
}

impl Thread {
    /// By the labels that exoprof gives to samples; other profilers have some of them.
    fn of<'l>(labels: impl Iterator<Item = &'l Label>) -> Self {
        let mut thread = Self::default();
        for label in labels {
            match (&*label.key, &label.value) {
                ("thread" | "thread_name" | "thread name", LabelValue::Text(text)) => {
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

    /// What a list of threads shows.
    pub(super) fn shown(&self) -> String {
        let mut shown = match (self.name.is_empty(), self.tid) {
            (true, 0) => "(no thread)".to_owned(),
            (true, tid) => format!("thread {tid}"),
            (false, 0) => self.name.clone(),
            (false, tid) => format!("{} ({tid})", self.name),
        };
        if !self.process.is_empty() && self.process != self.name {
            shown = format!("{}: {shown}", self.process);
        }
        shown
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
            let weight = self.weight_of(sample);
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
        // What has no weight left has nothing to show.
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

    fn weight_of(&self, sample: SampleRef<'_>) -> i64 {
        sample.values.get(self.value).copied().unwrap_or(0)
    }
}

impl Track {
    fn add(&mut self, stack: Vec<NodeId>, weight: i64) {
        let sum = self.stacks.entry(stack).or_default();
        *sum = sum.saturating_add(weight);
        self.weight = self.weight.saturating_add(weight.unsigned_abs());
    }
}

/// All of these in one.
pub(super) fn merged(thread: Thread, tracks: impl IntoIterator<Item = Track>) -> Track {
    let mut all = Track { thread, ..Track::default() };
    for track in tracks {
        for (stack, weight) in track.stacks {
            all.add(stack, weight);
        }
    }
    all
}

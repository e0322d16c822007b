//! Adds up contentions and delays by stack, and makes the `block` or `mutex` profile of them.

use aggregate::ids::{FrameKey, NodeIndex, Place, ThreadIndex};
use aggregate::recorder::{BROKEN, Recorder, SampleStats, TRUNCATED};
use assemble::Stats;
use assemble::builder::Valued;
use assemble::conclude::{Header, Named, Targets};
use pprof::Profile;
use pprof::kinds::BLOCK;
use rustc_hash::FxHashMap;

use crate::outcome::RecordError;

/// What contentions are added up by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub thread: ThreadIndex,
    pub stack: NodeIndex,
    pub labels: Vec<(&'static str, &'static str)>,
}

/// The total of some samples.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub contentions: f64,
    /// Nanoseconds.
    pub delay: f64,
    /// Number of samples.
    pub samples: u64,
}

impl Sum {
    /// The values of one sample; `delay` in nanoseconds.
    pub fn of_sample(contentions: f64, delay: u64) -> Self {
        Self { contentions, delay: delay as f64, samples: 1 }
    }

    pub fn add(&mut self, other: Self) {
        self.contentions += other.contentions;
        self.delay += other.delay;
        self.samples += other.samples;
    }
}

/// The contentions of a recording.
#[derive(Default)]
pub(super) struct Contentions(FxHashMap<Key, Sum>);

impl Contentions {
    /// Adds a sample, unless both values are 0.
    pub fn add(&mut self, key: Key, sum: Sum) {
        if sum.contentions > 0.0 || sum.delay > 0.0 {
            self.0.entry(key).or_default().add(sum);
        }
    }

    /// Whether there are no contentions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts the samples, the truncated ones, and the broken ones by reason, into `stats`.
    fn count_ends(&self, recorder: &Recorder, stats: &mut SampleStats) {
        (stats.kept, stats.truncated) = (0, 0);
        stats.broken.clear();
        let frames = recorder.tree.frames();
        for (key, sum) in &self.0 {
            stats.kept += sum.samples;
            let root = recorder.tree.stack(key.stack).last().map(|f| frames[f as usize]);
            let Some(FrameKey { place: Place::Marker, address }) = root else { continue };
            let name = usize::try_from(address.0).ok().and_then(|i| recorder.markers.get(i));
            let Some(name) = name else { continue };
            if name == TRUNCATED {
                stats.truncated += sum.samples;
            } else if let Some(why) = name.strip_prefix(BROKEN).and_then(|n| n.strip_suffix(']')) {
                *stats.broken.entry(why.to_owned()).or_default() += sum.samples;
            }
        }
    }

    /// The profile's samples in a fixed order, so that equal recordings give equal files.
    fn valued(self, recorder: &Recorder) -> Vec<Valued> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let named = recorder.processes.named_threads();
        let valued = |(key, sum): (Key, Sum)| Valued {
            thread: named[key.thread as usize].clone(),
            stack: key.stack,
            values: vec![sum.contentions.round() as i64, sum.delay.round() as i64],
            labels: key.labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        };
        all.into_iter().map(valued).filter(|v| v.values != [0, 0]).collect()
    }
}

/// Makes the profile, and adds to `stats` what is missing for lack of symbols.
pub(super) fn conclude(
    contentions: Contentions,
    targets: &Targets,
    (recorder, named): (&Recorder, &Named),
    time: i64,
    stats: &mut Stats,
) -> Result<Profile, RecordError> {
    stats.nameless_frames = named.losses.nameless;
    stats.damaged_images = named.losses.damaged.clone();
    stats.unread_images = named.losses.unread();
    stats.kernel_names = named.losses.kernel.clone();
    // Samples that the kind leaves out are not counted as truncated or broken.
    contentions.count_ends(recorder, &mut stats.samples);
    let samples = contentions.valued(recorder);
    // `mutex` has the same sample types as `block`.
    let header = Header { kind: &BLOCK, period: 1, time };
    Ok(targets.build(&header, (recorder, named), stats, &samples)?)
}

//! Filters frames, samples and labels of a profile without copying its samples.

use std::collections::BTreeSet;
use std::sync::Arc;

use pprof::{Label, Line, LocationIndex, Profile, SampleRef};

/// A view of a profile after pruning and filtering.
///
/// Filters remove lines from locations, locations from stacks, and frames at both ends of stacks.
pub(crate) struct FilteredProfile<'p> {
    pub(crate) profile: &'p Profile,
    lines: Vec<Line>,
    /// The end of each location's lines in `lines`.
    ends: Vec<usize>,
    /// Whether each location is removed from all stacks. Empty if none is.
    hidden: Vec<bool>,
    /// The number of frames removed at the leaf end of each sample. Empty if none are.
    cut: Vec<u32>,
    /// The number of frames removed at the root end of each sample. Empty if none are.
    cut_at_root: Vec<u32>,
    /// Whether each sample is removed. Empty if none is.
    dropped: Vec<bool>,
    /// Keys of removed labels.
    hidden_labels: BTreeSet<Arc<str>>,
    /// Directories to strip from source paths, separated by `:`.
    pub(crate) trim_path: String,
}

impl<'p> FilteredProfile<'p> {
    /// The whole profile.
    pub(crate) fn new(profile: &'p Profile) -> Self {
        let mut lines = Vec::with_capacity(profile.locations.len());
        let mut ends = Vec::with_capacity(profile.locations.len());
        for location in &profile.locations {
            lines.extend_from_slice(&location.lines);
            ends.push(lines.len());
        }
        let (hidden, cut, cut_at_root, dropped) = Default::default();
        let hidden_labels = BTreeSet::new();
        Self {
            profile,
            lines,
            ends,
            hidden,
            cut,
            cut_at_root,
            dropped,
            hidden_labels,
            trim_path: String::new(),
        }
    }

    /// The remaining lines of a location, innermost first.
    pub(crate) fn lines(&self, location: usize) -> &[Line] {
        let begin = location.checked_sub(1).and_then(|l| self.ends.get(l)).copied().unwrap_or(0);
        self.ends.get(location).and_then(|end| self.lines.get(begin..*end)).unwrap_or_default()
    }

    /// Replaces the lines of each location with those that the closure appends.
    pub(crate) fn rewrite_lines(&mut self, mut f: impl FnMut(usize, &[Line], &mut Vec<Line>)) {
        let mut lines = Vec::with_capacity(self.lines.len());
        let mut ends = Vec::with_capacity(self.ends.len());
        for location in 0..self.ends.len() {
            f(location, self.lines(location), &mut lines);
            ends.push(lines.len());
        }
        (self.lines, self.ends) = (lines, ends);
    }

    /// Removes locations from all stacks; one flag per location.
    pub(crate) fn hide(&mut self, hidden: Vec<bool>) {
        self.hidden = hidden;
    }

    /// Removes frames at the leaf end of stacks; one count per sample.
    pub(crate) fn cut(&mut self, cut: Vec<u32>) {
        self.cut = cut;
    }

    /// Restricts each sample to a range of its frames, counted from the leaf; `None` removes the
    /// sample.
    pub(crate) fn restrict(
        &mut self,
        mut range: impl FnMut(SampleRef<'p>) -> Option<std::ops::Range<usize>>,
    ) {
        let count = self.profile.samples.len();
        for counts in [&mut self.cut, &mut self.cut_at_root] {
            counts.resize(count, 0);
        }
        self.dropped.resize(count, false);
        let frames = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        for at in 0..count {
            let Some(sample) = self.sample(at) else { continue };
            match range(sample) {
                Some(kept) => {
                    let at_root = sample.locations.len().saturating_sub(kept.end);
                    self.cut[at] = self.cut[at].saturating_add(frames(kept.start));
                    self.cut_at_root[at] = self.cut_at_root[at].saturating_add(frames(at_root));
                }
                None => self.dropped[at] = true,
            }
        }
    }

    /// Keeps only the outermost line of each location, so inlined calls count for their caller.
    pub(crate) fn drop_inlined(&mut self) {
        self.rewrite_lines(|_, lines, out| out.extend(lines.last()));
    }

    /// Removes labels by key.
    pub(crate) fn hide_labels(&mut self, keys: BTreeSet<Arc<str>>) {
        self.hidden_labels = keys;
    }

    /// The remaining labels of a sample.
    pub(crate) fn labels(&self, sample: SampleRef<'p>) -> impl Iterator<Item = &'p Label> {
        sample.labels.iter().filter(|l| !self.hidden_labels.contains(&l.key))
    }

    pub(crate) fn is_hidden(&self, location: LocationIndex) -> bool {
        self.hidden.get(location.index()).is_some_and(|h| *h)
    }

    /// The remaining samples. Their stacks may contain [hidden](Self::is_hidden) locations.
    pub(crate) fn samples(&self) -> impl Iterator<Item = SampleRef<'p>> {
        (0..self.profile.samples.len()).filter_map(|at| self.sample(at))
    }

    /// The sample at a position of the profile, unless it is removed.
    fn sample(&self, at: usize) -> Option<SampleRef<'p>> {
        if self.dropped.get(at).is_some_and(|d| *d) {
            return None;
        }
        let sample = self.profile.samples.get(at)?;
        let count = |counts: &[u32]| counts.get(at).map_or(0, |c| *c as usize);
        let end = sample.locations.len().saturating_sub(count(&self.cut_at_root));
        let locations = sample.locations.get(count(&self.cut)..end).unwrap_or_default();
        Some(SampleRef { locations, ..sample })
    }

    /// The remaining frames of a sample, leaf first.
    pub(crate) fn stack(&self, sample: SampleRef<'p>) -> impl Iterator<Item = LocationIndex> {
        sample.locations.iter().copied().filter(|l| !self.is_hidden(*l))
    }
}

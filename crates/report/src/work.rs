//! A profile with frames taken out, without a copy of its samples.

use std::collections::BTreeSet;
use std::sync::Arc;

use pprof::{Label, Line, LocationIndex, Profile, SampleRef};

/// What is left of a profile after pruning and filtering.
///
/// Lines are taken out of locations, and whole locations and leaf ends out of stacks.
pub(crate) struct Work<'p> {
    pub(crate) profile: &'p Profile,
    lines: Vec<Line>,
    /// For each location the end of its lines in `lines`.
    ends: Vec<usize>,
    /// For each location whether it is no part of any stack. Empty when none is hidden.
    hidden: Vec<bool>,
    /// For each sample how many frames at its leaf end are gone. Empty when none are.
    cut: Vec<u32>,
    /// For each sample how many frames at its root end are gone. Empty when none are.
    cut_at_root: Vec<u32>,
    /// For each sample whether it is gone. Empty when none is.
    dropped: Vec<bool>,
    /// Keys of labels that are gone.
    hidden_labels: BTreeSet<Arc<str>>,
    /// Folders, separated by `:`, that source paths lose when they begin with one.
    pub(crate) trim_path: String,
}

impl<'p> Work<'p> {
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

    /// What is left of the lines of a location, innermost first.
    pub(crate) fn lines(&self, location: usize) -> &[Line] {
        let begin = location.checked_sub(1).and_then(|l| self.ends.get(l)).copied().unwrap_or(0);
        self.ends.get(location).and_then(|end| self.lines.get(begin..*end)).unwrap_or_default()
    }

    /// Replaces the lines of each location by what the closure appends for them.
    pub(crate) fn rewrite_lines(&mut self, mut f: impl FnMut(usize, &[Line], &mut Vec<Line>)) {
        let mut lines = Vec::with_capacity(self.lines.len());
        let mut ends = Vec::with_capacity(self.ends.len());
        for location in 0..self.ends.len() {
            f(location, self.lines(location), &mut lines);
            ends.push(lines.len());
        }
        (self.lines, self.ends) = (lines, ends);
    }

    /// Takes locations out of all stacks; one flag for each location.
    pub(crate) fn hide(&mut self, hidden: Vec<bool>) {
        self.hidden = hidden;
    }

    /// Takes frames out of the leaf end of stacks; one number for each sample.
    pub(crate) fn cut(&mut self, cut: Vec<u32>) {
        self.cut = cut;
    }

    /// Restricts each sample to a part of its frames, by their positions from the leaf; `None`
    /// takes it out.
    pub(crate) fn restrict(
        &mut self,
        mut part: impl FnMut(SampleRef<'p>) -> Option<std::ops::Range<usize>>,
    ) {
        let count = self.profile.samples.len();
        for counts in [&mut self.cut, &mut self.cut_at_root] {
            counts.resize(count, 0);
        }
        self.dropped.resize(count, false);
        let frames = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        for at in 0..count {
            let Some(sample) = self.sample(at) else { continue };
            match part(sample) {
                Some(kept) => {
                    let behind = sample.locations.len().saturating_sub(kept.end);
                    self.cut[at] = self.cut[at].saturating_add(frames(kept.start));
                    self.cut_at_root[at] = self.cut_at_root[at].saturating_add(frames(behind));
                }
                None => self.dropped[at] = true,
            }
        }
    }

    /// Leaves of each location its outermost line only: inlined calls count for their caller.
    pub(crate) fn drop_inlined(&mut self) {
        self.rewrite_lines(|_, lines, out| out.extend(lines.last()));
    }

    /// Takes labels out, by their keys.
    pub(crate) fn hide_labels(&mut self, keys: BTreeSet<Arc<str>>) {
        self.hidden_labels = keys;
    }

    /// The labels of a sample that are left.
    pub(crate) fn labels(&self, sample: SampleRef<'p>) -> impl Iterator<Item = &'p Label> {
        sample.labels.iter().filter(|l| !self.hidden_labels.contains(&l.key))
    }

    pub(crate) fn is_hidden(&self, location: LocationIndex) -> bool {
        self.hidden.get(location.index()).is_some_and(|h| *h)
    }

    /// The samples that are left. Their stacks may still hold [hidden](Self::is_hidden) locations.
    pub(crate) fn samples(&self) -> impl Iterator<Item = SampleRef<'p>> {
        (0..self.profile.samples.len()).filter_map(|at| self.sample(at))
    }

    /// The sample at a position of the profile, if it is left.
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

    /// The frames of a sample that are left, leaf first.
    pub(crate) fn stack(&self, sample: SampleRef<'p>) -> impl Iterator<Item = LocationIndex> {
        sample.locations.iter().copied().filter(|l| !self.is_hidden(*l))
    }
}

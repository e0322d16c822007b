//! A profile with frames taken out, without a copy of its samples.

use pprof::{Line, LocationIndex, Profile, SampleRef};

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
    /// For each sample whether it is gone. Empty when none is.
    dropped: Vec<bool>,
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
        let (hidden, cut, dropped) = Default::default();
        Self { profile, lines, ends, hidden, cut, dropped }
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

    /// Takes samples out; one flag for each sample.
    pub(crate) fn drop_samples(&mut self, dropped: Vec<bool>) {
        self.dropped = dropped;
    }

    pub(crate) fn is_hidden(&self, location: LocationIndex) -> bool {
        self.hidden.get(location.index()).is_some_and(|h| *h)
    }

    /// The samples that are left. Their stacks may still hold [hidden](Self::is_hidden) locations.
    pub(crate) fn samples(&self) -> impl Iterator<Item = SampleRef<'p>> {
        let alive = |at: &usize| !self.dropped.get(*at).is_some_and(|d| *d);
        self.profile.samples.iter().enumerate().filter(move |(at, _)| alive(at)).map(
            |(at, sample)| {
                let cut = self.cut.get(at).map_or(0, |c| *c as usize);
                SampleRef { locations: sample.locations.get(cut..).unwrap_or_default(), ..sample }
            },
        )
    }

    /// The frames of a sample that are left, leaf first.
    pub(crate) fn stack(&self, sample: SampleRef<'p>) -> impl Iterator<Item = LocationIndex> {
        sample.locations.iter().copied().filter(|l| !self.is_hidden(*l))
    }
}

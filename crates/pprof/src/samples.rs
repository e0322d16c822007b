//! Stores samples in flat vectors, so that half a million stacks take a handful of allocations.

use crate::{Label, LocationIndex};

/// A position in [`LabelSets`]; 0 is the empty set.
pub(crate) type LabelSet = u32;

/// All samples of a profile.
///
/// The frames of all samples are in one vector, the values in another, and samples with equal labels
/// share them. A frame takes 4 bytes.
#[derive(Clone, Default)]
pub struct Samples {
    width: usize,
    /// The end of each sample's stack in `frames`.
    ends: Vec<usize>,
    frames: Vec<LocationIndex>,
    values: Vec<i64>,
    sets: Vec<LabelSet>,
    labels: LabelSets,
}

/// One sample, borrowed from [`Samples`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleRef<'a> {
    /// The stack, leaf first.
    pub locations: &'a [LocationIndex],
    /// One value for each sample type.
    pub values: &'a [i64],
    /// The labels.
    pub labels: &'a [Label],
}

impl SampleRef<'_> {
    /// The value of the sample type at an index; 0 if there is none.
    #[must_use]
    pub fn value(&self, sample_type: usize) -> i64 {
        self.values.get(sample_type).copied().unwrap_or(0)
    }
}

impl Samples {
    /// An empty list of samples with `width` values each.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// The number of values per sample.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// The number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The sample at a position.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<SampleRef<'_>> {
        Some(SampleRef {
            locations: self.stack(at)?,
            values: self.values.get(at * self.width..(at + 1) * self.width)?,
            labels: self.labels.get(*self.sets.get(at)?),
        })
    }

    /// All samples, in order.
    #[must_use]
    pub const fn iter(&self) -> SampleIter<'_> {
        SampleIter { samples: self, at: 0 }
    }

    /// Keeps the samples for which `keep` returns true, in order.
    ///
    /// Locations that are no longer used stay until
    /// [`Profile::compact`](crate::Profile::compact).
    pub fn retain(&mut self, mut keep: impl FnMut(SampleRef<'_>) -> bool) {
        let mut kept = Self::new(self.width);
        for at in 0..self.len() {
            if let Some(sample) = self.get(at)
                && keep(sample)
            {
                kept.push(sample.locations, sample.values, self.sets[at]);
            }
        }
        kept.labels = std::mem::take(&mut self.labels);
        *self = kept;
    }

    /// The stack of the sample at a position.
    pub(crate) fn stack(&self, at: usize) -> Option<&[LocationIndex]> {
        let begin = if at == 0 { 0 } else { *self.ends.get(at - 1)? };
        self.frames.get(begin..*self.ends.get(at)?)
    }

    /// The label set of the sample at a position.
    pub(crate) fn label_set(&self, at: usize) -> Option<LabelSet> {
        self.sets.get(at).copied()
    }

    /// Adds a sample. `values` should have the samples' width: excess values are cut, missing ones
    /// are 0.
    pub(crate) fn push(&mut self, stack: &[LocationIndex], values: &[i64], set: LabelSet) {
        self.frames.extend_from_slice(stack);
        self.finish_sample(values, set);
    }

    /// Adds one frame to the sample that [`finish_sample`](Self::finish_sample) will end.
    pub(crate) fn push_frame(&mut self, location: LocationIndex) {
        self.frames.push(location);
    }

    /// Ends a sample that consists of the frames pushed since the last one.
    pub(crate) fn finish_sample(&mut self, values: &[i64], set: LabelSet) {
        debug_assert_eq!(values.len(), self.width);
        self.values.extend_from_slice(values);
        self.ends.push(self.frames.len());
        self.values.resize(self.ends.len() * self.width, 0);
        self.sets.push(set);
    }

    /// Adds to the values of a sample. Sums saturate.
    pub(crate) fn add_values(&mut self, at: usize, values: &[i64]) {
        if let Some(sums) = self.values.get_mut(at * self.width..(at + 1) * self.width) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = sum.saturating_add(*value);
            }
        }
    }

    /// Replaces each value; the closure gets the index of its sample type.
    pub(crate) fn map_values(&mut self, mut f: impl FnMut(usize, i64) -> i64) {
        for sample in self.values.chunks_mut(self.width.max(1)) {
            for (kind, value) in sample.iter_mut().enumerate() {
                *value = f(kind, *value);
            }
        }
    }

    /// The values of all samples, one sample after the other.
    pub(crate) const fn values_mut(&mut self) -> &mut Vec<i64> {
        &mut self.values
    }

    /// Sets the number of values per sample; the caller adapts the values.
    pub(crate) const fn set_width(&mut self, width: usize) {
        self.width = width;
    }

    /// Every frame of every sample.
    pub(crate) fn frames(&self) -> &[LocationIndex] {
        &self.frames
    }

    /// Every frame of every sample, for renumbering.
    pub(crate) fn frames_mut(&mut self) -> &mut [LocationIndex] {
        &mut self.frames
    }

    /// The sets of labels.
    pub(crate) const fn labels(&self) -> &LabelSets {
        &self.labels
    }

    /// The sets of labels, to add to.
    pub(crate) const fn labels_mut(&mut self) -> &mut LabelSets {
        &mut self.labels
    }

    /// Sets `label` on every sample and replaces any other label with its key.
    pub(crate) fn label_all(&mut self, label: &Label) {
        let old = std::mem::take(&mut self.labels);
        for set in 0..=old.len() {
            let mut labels: Vec<Label> =
                old.get(set).iter().filter(|l| l.key != label.key).cloned().collect();
            labels.push(label.clone());
            labels.sort_by(|a, b| a.key.cmp(&b.key));
            self.labels.push(labels);
        }
        // Set n became set n + 1, because set 0 must stay empty.
        for set in &mut self.sets {
            *set = set.saturating_add(1);
        }
    }
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Samples {
    /// Compares samples, regardless of how they share labels.
    fn eq(&self, other: &Self) -> bool {
        self.width == other.width && self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a> IntoIterator for &'a Samples {
    type Item = SampleRef<'a>;
    type IntoIter = SampleIter<'a>;

    fn into_iter(self) -> SampleIter<'a> {
        self.iter()
    }
}

/// The samples of a [`Samples`], in order.
#[derive(Debug, Clone)]
pub struct SampleIter<'a> {
    samples: &'a Samples,
    at: usize,
}

impl<'a> Iterator for SampleIter<'a> {
    type Item = SampleRef<'a>;

    fn next(&mut self) -> Option<SampleRef<'a>> {
        let sample = self.samples.get(self.at)?;
        self.at += 1;
        Some(sample)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.samples.len() - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for SampleIter<'_> {}

/// The distinct sets of labels of a profile's samples, in one vector.
#[derive(Debug, Clone, Default)]
pub(crate) struct LabelSets {
    labels: Vec<Label>,
    /// The end of each set in `labels`, without the empty set 0.
    ends: Vec<usize>,
}

impl LabelSets {
    /// The labels of a set; none for a set that does not exist.
    pub(crate) fn get(&self, set: LabelSet) -> &[Label] {
        let range = || {
            let last = (set as usize).checked_sub(1)?;
            let begin = if last == 0 { 0 } else { *self.ends.get(last - 1)? };
            self.labels.get(begin..*self.ends.get(last)?)
        };
        range().unwrap_or_default()
    }

    /// The index of the last set, which is the number of sets without the empty one.
    pub(crate) fn len(&self) -> LabelSet {
        LabelSet::try_from(self.ends.len()).unwrap_or(LabelSet::MAX)
    }

    /// Adds a set, even an empty one, and returns its index.
    pub(crate) fn push(&mut self, labels: impl IntoIterator<Item = Label>) -> LabelSet {
        self.labels.extend(labels);
        self.ends.push(self.labels.len());
        self.len()
    }
}

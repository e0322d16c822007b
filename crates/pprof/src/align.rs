//! Selects and scales sample types, so that the values of profiles can be merged.

use crate::{Profile, Samples};

impl Profile {
    /// Keeps the sample types at these positions, in this order.
    ///
    /// # Panics
    /// When a position is outside of [`sample_types`](Self::sample_types).
    pub fn select_sample_types(&mut self, positions: &[usize]) {
        let types = positions.iter().map(|&at| self.sample_types[at].clone()).collect();
        let old = std::mem::take(&mut self.samples);
        self.samples = old.select_values(positions);
        self.sample_types = types;
    }

    /// Multiplies the values of each sample type by its ratio, rounded to the nearest integer.
    ///
    /// If any ratio is not 1, samples without a scaled value other than 0 are dropped, as in
    /// google/pprof's `ScaleN`. Missing ratios are 1.
    pub fn scale_each(&mut self, ratios: &[f64]) {
        if ratios.iter().all(|r| *r == 1.0) {
            return;
        }
        let ratio = |kind: usize| ratios.get(kind).copied().unwrap_or(1.0);
        self.samples.map_values(|kind, v| match ratio(kind) {
            1.0 => v,
            ratio => scaled(v, ratio),
        });
        self.samples
            .retain(|s| s.values.iter().enumerate().any(|(kind, v)| ratio(kind) != 1.0 && *v != 0));
    }
}

impl Samples {
    /// The samples with the values at these positions only.
    fn select_values(mut self, positions: &[usize]) -> Self {
        let width = self.width();
        let values = self.values_mut();
        let mut selected = Vec::with_capacity(values.len() / width.max(1) * positions.len());
        for sample in values.chunks(width.max(1)) {
            selected.extend(positions.iter().map(|&at| sample[at]));
        }
        *values = selected;
        self.set_width(positions.len());
        self
    }
}

/// A value times a ratio, rounded to the nearest integer. Saturates; 0 for a ratio that is NaN.
#[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
pub(crate) fn scaled(value: i64, ratio: f64) -> i64 {
    (value as f64 * ratio).round() as i64
}

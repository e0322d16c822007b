//! Making the values of profiles comparable before they are merged.

use crate::{Profile, Samples};

impl Profile {
    /// Keeps the sample types at these positions, in this order.
    ///
    /// # Panics
    /// When a position lies outside [`sample_types`](Self::sample_types).
    pub fn select_sample_types(&mut self, positions: &[usize]) {
        let types = positions.iter().map(|&at| self.sample_types[at].clone()).collect();
        let old = std::mem::take(&mut self.samples);
        self.samples = old.select_values(positions);
        self.sample_types = types;
    }

    /// Multiplies the values of each sample type by its ratio, rounded to the nearest integer.
    ///
    /// Where a ratio is not 1, samples go whose scaled values all become zero, as with
    /// google/pprof's `ScaleN`. Ratios that are not given are 1.
    pub fn scale_each(&mut self, ratios: &[f64]) {
        if ratios.iter().all(|r| *r == 1.0) {
            return;
        }
        let ratio = |kind: usize| ratios.get(kind).copied().unwrap_or(1.0);
        self.samples.map_values(|kind, v| match ratio(kind) {
            1.0 => v,
            ratio => (v as f64 * ratio).round() as i64,
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

//! Writes the `tags` report (labels with the weight of each value) and the `comments` report.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;

use pprof::LabelValue;
use printable::Printable;

use crate::ReportError;
use crate::graph::magnitude;
use crate::labels::Units;
use crate::measure;
use crate::report::Report;

impl Report<'_> {
    pub(crate) fn write_comments(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        for comment in &self.work.profile.comments {
            writeln!(out, "{}", Printable(comment))?;
        }
        Ok(())
    }

    pub(crate) fn write_tags(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let values = self.values();
        let total = values.total;
        let share = |weight: i64| match total > 0 {
            true => format!(" ({})", measure::percentage(weight, total)),
            false => String::new(),
        };
        for (key, weights) in self.tag_weights(&values.shown_in) {
            let sum = weights.values().fold(0_i64, |sum, w| sum.wrapping_add(*w));
            let mut tags: Vec<(String, i64)> = weights.into_iter().collect();
            tags.sort_by_key(|(_, weight)| Reverse(magnitude(*weight)));
            let weights: Vec<String> = (tags.iter())
                .map(|(_, weight)| format!("{}{}:", values.label(*weight), share(*weight)))
                .collect();
            let width = |text: &str| text.chars().count() + 1;
            let key = format!("{}:", Printable(key));
            let indent = " ".repeat(width(&key));
            let second = weights.iter().map(|w| width(w)).max().unwrap_or(0);
            let (sum, share) = (values.label(sum), share(sum));
            writeln!(out, " {key} Total {sum} of {}{share}", values.label(total))?;
            for ((name, _), weight) in tags.iter().zip(weights) {
                writeln!(out, "{indent}{} {}", right_aligned(&weight, second), Printable(name))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    /// The values of each label key, with their weights.
    fn tag_weights(&self, unit: &str) -> BTreeMap<&str, BTreeMap<String, i64>> {
        let units = Units::new(&self.work);
        let mut by_key: BTreeMap<&str, BTreeMap<String, i64>> = BTreeMap::new();
        for sample in self.work.samples() {
            let weight = sample.value(self.value);
            for label in self.work.labels(sample) {
                let text = match &label.value {
                    LabelValue::Text(text) => text.to_string(),
                    LabelValue::Number { value: 0, unit } if unit.is_empty() => continue,
                    LabelValue::Number { value, .. } => {
                        measure::label(*value, units.of(&label.key), unit)
                    }
                };
                let sum = by_key.entry(&label.key).or_default().entry(text).or_default();
                *sum = sum.wrapping_add(weight);
            }
        }
        by_key
    }
}

/// The text at the right end of `width` characters. A format string can pad to 65,535 at most, and
/// panics beyond.
fn right_aligned(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(text.chars().count())) + text
}

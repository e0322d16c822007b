//! Formats values, and the lines above a report.

use pprof::Profile;
use printable::line;

use crate::{go, measure};

/// Longer filters are truncated in the header.
const LONGEST_FILTER: usize = 80;

/// Formats the values of a report.
pub(crate) struct Values<'r> {
    /// The value of 100 %.
    pub(crate) total: i64,
    /// The profile's unit.
    pub(crate) unit: &'r str,
    /// The unit to show values in.
    pub(crate) shown_in: String,
    /// Values are multiplied by this before they are shown.
    pub(crate) ratio: f64,
}

impl Values<'_> {
    pub(crate) fn label(&self, value: i64) -> String {
        measure::label(self.divided(value), self.unit, &self.shown_in)
    }

    /// A value times the ratio; a ratio of 0 or less is ignored.
    pub(crate) fn divided(&self, value: i64) -> i64 {
        if self.ratio > 0.0 && self.ratio != 1.0 {
            go::integer(value as f64 * self.ratio)
        } else {
            value
        }
    }

    pub(crate) fn label_or_dot(&self, value: i64) -> String {
        if value == 0 { ".".to_owned() } else { self.label(value) }
    }

    pub(crate) fn percentage(&self, value: i64) -> String {
        measure::percentage(value, self.total)
    }
}

/// The lines about the profile.
pub(crate) fn of_profile(profile: &Profile, sample_type: &str, values: &Values<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(main) = profile.mappings.first() {
        if !main.file.is_empty() {
            lines.push(format!("File: {}", go::base(&main.file)));
        }
        if !main.build_id.is_empty() {
            lines.push(format!("Build ID: {}", main.build_id));
        }
    }
    lines.extend(profile.comments.iter().filter(|c| !c.starts_with('#')).map(|c| c.to_string()));
    if !sample_type.is_empty() {
        lines.push(format!("Type: {sample_type}"));
    }
    if !profile.doc_url.is_empty() {
        lines.push(format!("Doc: {}", profile.doc_url));
    }
    if profile.time_nanos != 0 {
        lines.push(format!("Time: {}", go::time_to_second(profile.time_nanos)));
    }
    if profile.duration_nanos != 0 {
        let duration = measure::label(profile.duration_nanos, "nanoseconds", "auto");
        let (nanos, unit) = measure::scale(values.total, values.unit, "nanoseconds");
        let ratio = match &*unit {
            "ns" if nanos != 0.0 => {
                format!("({})", measure::percentage(go::integer(nanos), profile.duration_nanos))
            }
            _ => String::new(),
        };
        let total = values.label(values.total);
        lines.push(format!("Duration: {duration}, Total samples = {total} {ratio}"));
    }
    lines.iter().map(|text| line(text).into_owned()).collect()
}

/// The entries that a report shows, and those that it omits.
pub(crate) struct Shown {
    /// The flat weight of all shown entries.
    pub(crate) flat: i64,
    /// The number of shown entries.
    pub(crate) nodes: usize,
    /// The number of entries without the limit on it.
    pub(crate) nodes_before_limit: usize,
    /// The number of entries below the cutoff.
    pub(crate) dropped: usize,
    /// The cutoff as a fraction of the total.
    pub(crate) node_fraction: f64,
}

/// The lines about filters and omitted entries.
pub(crate) fn of_selection(filters: &[String], shown: &Shown, values: &Values<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if !filters.is_empty() {
        lines.push("Active filters:".to_owned());
        lines.extend(filters.iter().map(|filter| line(filter)).map(|filter| {
            let cut = filter.char_indices().find(|(at, c)| at + c.len_utf8() > LONGEST_FILTER);
            cut.map_or_else(|| format!("   {filter}"), |(end, _)| format!("   {}…", &filter[..end]))
        }));
    }
    let percentage = values.percentage(shown.flat);
    lines.push(format!(
        "Showing nodes accounting for {}, {} of {} total",
        values.label(shown.flat),
        percentage.trim(),
        values.label(values.total)
    ));
    if values.total != 0 {
        if shown.dropped > 0 {
            let cutoff = go::integer(values.total as f64 * shown.node_fraction);
            lines.push(format!(
                "Dropped {} node{} (cum <= {})",
                shown.dropped,
                if shown.dropped > 1 { "s" } else { "" },
                values.label(cutoff.wrapping_abs())
            ));
        }
        if shown.nodes > 0 && shown.nodes < shown.nodes_before_limit {
            lines.push(format!(
                "Showing top {} nodes out of {}",
                shown.nodes, shown.nodes_before_limit
            ));
        }
    }
    lines
}

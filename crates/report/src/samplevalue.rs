//! Selects the sample type of a report and sums up its values.

use pprof::Profile;

use crate::ReportError;
use crate::graph::magnitude;
use crate::labels::is_base;
use crate::work::FilteredProfile;

/// The index of a sample type, given by name or index. `None` or empty selects the default type.
///
/// Names may have the prefix `inuse_`: old heap profiles call `inuse_space` just `space`.
///
/// # Errors
/// When the profile has no such type.
pub fn index(profile: &Profile, wanted: Option<&str>) -> Result<usize, ReportError> {
    let default = profile.default_sample_type_index().ok_or(ReportError::NoSampleTypes)?;
    let Some(wanted) = wanted.filter(|w| !w.is_empty()) else { return Ok(default) };
    let types = &profile.sample_types;
    if let Ok(position) = wanted.parse::<i64>() {
        let found = usize::try_from(position).ok().filter(|p| *p < types.len());
        let last = types.len() - 1;
        return found.ok_or(ReportError::SampleTypeRange { wanted: position, last });
    }
    let bare = wanted.strip_prefix("inuse_").unwrap_or(wanted);
    types.iter().position(|t| &*t.kind == wanted || &*t.kind == bare).ok_or_else(|| {
        let known: Vec<&str> = types.iter().map(|t| &*t.kind).collect();
        ReportError::SampleType { wanted: wanted.to_owned(), known: known.join(", ") }
    })
}

/// The sum of the absolute values of all samples, or of a diff's base if there is one.
pub(crate) fn total(work: &FilteredProfile<'_>, value: usize) -> i64 {
    let (mut all, mut base) = (0_i64, 0_i64);
    for sample in work.samples() {
        let v = magnitude(sample.value(value));
        all = all.wrapping_add(v);
        if work.labels(sample).any(is_base) {
            base = base.wrapping_add(v);
        }
    }
    if base > 0 { base } else { all }
}

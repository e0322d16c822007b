//! Which of a sample's values is reported.

use pprof::Profile;

use crate::ReportError;
use crate::work::Work;

/// The position of a sample type by its name or position; of the default type for none.
///
/// `inuse_` may go before a name: old heap profiles call `space` what now is `inuse_space`.
///
/// # Errors
/// When there is no such type.
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

/// The sum of the absolute values of all samples, or of those of a diff's base if there are any.
pub(crate) fn total(work: &Work<'_>, value: usize) -> i64 {
    let (mut all, mut base) = (0_i64, 0_i64);
    for sample in work.samples() {
        let Some(v) = sample.values.get(value) else { continue };
        let v = v.wrapping_abs();
        all = all.wrapping_add(v);
        let is_base = |l: &pprof::Label| {
            &*l.key == pprof::BASE_LABEL
                && matches!(&l.value, pprof::LabelValue::Text(text) if &**text == "true")
        };
        if work.labels(sample).any(is_base) {
            base = base.wrapping_add(v);
        }
    }
    if base > 0 { base } else { all }
}

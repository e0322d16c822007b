//! Checks the scalar fields.

use super::violation::{Violation, Violations};
use super::wire::WireTables;

pub(super) fn check(p: &WireTables<'_>, found: &mut Violations) {
    let profile = p.profile;
    found.add_if(profile.time_nanos <= 0, || Violation::NoTime { value: profile.time_nanos });
    found.add_if(profile.duration_nanos < 0, || Violation::NegativeDuration {
        value: profile.duration_nanos,
    });
    found.add_if(profile.period <= 0, || Violation::NoPeriod { value: profile.period });
    for kind in profile.sample_type.iter().chain(&profile.period_type) {
        p.text(kind.r#type, "ValueType.type", found);
        p.text(kind.unit, "ValueType.unit", found);
    }
    let is_set = profile.period_type.is_some_and(|t| t.r#type != 0 && t.unit != 0);
    found.add_if(!is_set, || Violation::NoPeriodType);

    for &comment in &profile.comment {
        let text = p.text(comment, "comment", found);
        found.add_if(text.is_empty() || text.starts_with('#'), || Violation::HiddenComment {
            text: text.to_owned(),
        });
    }
    let url = p.text(profile.doc_url, "doc_url", found);
    let is_absolute = ["http://", "https://"].iter().any(|scheme| {
        url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    });
    found.add_if(!url.is_empty() && !is_absolute, || Violation::RelativeDocUrl {
        url: url.to_owned(),
    });
    let default = p.text(profile.default_sample_type, "default_sample_type", found);
    let is_type = profile.sample_type.iter().any(|t| p.peek(t.r#type) == default);
    found.add_if(!default.is_empty() && !is_type, || Violation::UnknownDefaultType {
        name: default.to_owned(),
    });
    p.text(profile.drop_frames, "drop_frames", found);
    p.text(profile.keep_frames, "keep_frames", found);
}

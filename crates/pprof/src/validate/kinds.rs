//! The kinds of profile that consumers know by their exact type names.

use super::{Violation, Violations, Wire};

/// A type and its unit.
type Type = (&'static str, &'static str);

/// What makes a kind: the sample types in order, the period type, the default where it matters.
struct Kind {
    name: &'static str,
    types: &'static [Type],
    period: Type,
    default: Option<&'static str>,
}

const CONTENTIONS: [Type; 2] = [("contentions", "count"), ("delay", "nanoseconds")];
const HEAP: [Type; 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

const fn of_time(name: &'static str, types: &'static [Type], period: &'static str) -> Kind {
    Kind { name, types, period: (period, "nanoseconds"), default: None }
}

const fn of_count(name: &'static str, types: &'static [Type], period: &'static str) -> Kind {
    Kind { name, types, period: (period, "count"), default: None }
}

/// The table of Go's runtime/pprof, and wall, which has cpu's form. Of two kinds with equal types
/// the one that fixes the default comes first.
const KINDS: [Kind; 8] = [
    of_time("cpu", &[("samples", "count"), ("cpu", "nanoseconds")], "cpu"),
    of_time("wall", &[("samples", "count"), ("wall", "nanoseconds")], "wall"),
    Kind { name: "allocs", types: &HEAP, period: ("space", "bytes"), default: Some("alloc_space") },
    Kind { name: "heap", types: &HEAP, period: ("space", "bytes"), default: None },
    of_count("block or mutex", &CONTENTIONS, "contentions"),
    of_count("goroutine", &[("goroutine", "count")], "goroutine"),
    of_count("threadcreate", &[("threadcreate", "count")], "threadcreate"),
    of_count("goroutineleak", &[("goroutineleak", "count")], "goroutineleak"),
];

/// The name of the profile's kind.
pub(super) fn find(p: &Wire<'_>, found: &mut Violations) -> Option<&'static str> {
    let types: Vec<(&str, &str)> =
        p.profile.sample_type.iter().map(|t| (p.peek(t.r#type), p.peek(t.unit))).collect();
    let period = p.profile.period_type.map_or(("", ""), |t| (p.peek(t.r#type), p.peek(t.unit)));
    let default = p.peek(p.profile.default_sample_type);
    let kind = KINDS
        .iter()
        .find(|k| k.types == types && k.period == period && k.default.is_none_or(|d| d == default));
    if kind.is_none() {
        let show = |(kind, unit): &(&str, &str)| format!("{kind}/{unit}");
        found.add(Violation::UnknownKind {
            types: types.iter().map(show).collect::<Vec<_>>().join(", "),
            period: show(&period),
        });
    }
    kind.map(|k| k.name)
}

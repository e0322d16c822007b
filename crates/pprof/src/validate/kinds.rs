//! Finds a profile's kind by its types. Readers know kinds by the exact names of these.

use super::expect::Expect;
use super::violation::{Violation, Violations};
use super::wire::WireTables;
use crate::kinds;

/// The name of the profile's kind: `block or mutex` where several have equal types.
pub(super) fn find(
    p: &WireTables<'_>,
    expect: &Expect<'_>,
    found: &mut Violations,
) -> Option<String> {
    let types: Vec<(&str, &str)> =
        p.profile.sample_type.iter().map(|t| (p.peek(t.r#type), p.peek(t.unit))).collect();
    let period = p.profile.period_type.map_or(("", ""), |t| (p.peek(t.r#type), p.peek(t.unit)));
    let default = p.peek(p.profile.default_sample_type);
    let of_types = || {
        let known = kinds::GO.iter().chain(expect.kinds);
        known.filter(|k| k.sample_types == types && k.period_type == period)
    };
    // Of kinds with equal types, those with a default sample type come first.
    let mut names: Vec<&str> = of_types()
        .filter(|k| k.default_sample_type.is_some_and(|d| d == default))
        .map(|k| k.name)
        .collect();
    if names.is_empty() {
        let any_default = of_types().filter(|k| k.default_sample_type.is_none());
        names = any_default.map(|k| k.name).collect();
    }
    if names.is_empty() {
        let show = |(kind, unit): &(&str, &str)| format!("{kind}/{unit}");
        found.add(Violation::UnknownKind {
            types: types.iter().map(show).collect::<Vec<_>>().join(", "),
            period: show(&period),
        });
        return None;
    }
    // The caller's kinds may include Go's.
    names.sort_unstable();
    names.dedup();
    Some(names.join(" or "))
}

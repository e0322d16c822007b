//! The heaviest functions of a profile.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pprof::{FunctionIndex, Profile};

/// A function with what was spent in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heavy {
    /// Its name.
    pub name: String,
    /// Spent in it alone, in the unit of the profile's default sample type.
    pub flat: i64,
    /// Spent in it and in what it called.
    pub cum: i64,
    /// Spent in the whole profile.
    pub total: i64,
}

/// The `n` functions with the most of the profile's default sample type, heaviest first.
#[must_use]
pub fn heaviest(profile: &Profile, n: usize) -> Vec<Heavy> {
    let Some(value) = profile.default_sample_type_index() else { return Vec::new() };
    let mut sums: BTreeMap<FunctionIndex, (i64, i64)> = BTreeMap::new();
    let mut total = 0i64;
    let mut seen = Vec::new();
    for sample in profile.samples.iter() {
        let Some(&v) = sample.values.get(value) else { continue };
        total = total.saturating_add(v);
        seen.clear();
        for location in sample.locations {
            let Some(location) = profile.locations.get(location.index()) else { continue };
            seen.extend(location.lines.iter().filter_map(|l| l.function));
        }
        let leaf_named = sample
            .locations
            .first()
            .and_then(|l| profile.locations.get(l.index()))
            .is_some_and(|l| !l.lines.is_empty());
        if let (true, Some(leaf)) = (leaf_named, seen.first()) {
            let flat = &mut sums.entry(*leaf).or_default().0;
            *flat = flat.saturating_add(v);
        }
        seen.sort_unstable();
        seen.dedup();
        for function in &seen {
            let cum = &mut sums.entry(*function).or_default().1;
            *cum = cum.saturating_add(v);
        }
    }
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by_key(|(_, (flat, cum))| std::cmp::Reverse((*flat, *cum)));
    let name = |f: FunctionIndex| {
        profile.functions.get(f.index()).map_or_else(String::new, |f| f.name.to_string())
    };
    all.into_iter()
        .take(n)
        .map(|(f, (flat, cum))| Heavy { name: name(f), flat, cum, total })
        .collect()
}

/// The functions as a table of seconds and shares.
#[must_use]
pub fn table(rows: &[Heavy]) -> String {
    let mut out = String::from("      flat  flat%       cum   cum%\n");
    for r in rows {
        let share = |v: i64| v as f64 * 100.0 / r.total.max(1) as f64;
        let _ = writeln!(
            out,
            "{:>10} {:>5.1}% {:>9} {:>5.1}%  {}",
            seconds(r.flat),
            share(r.flat),
            seconds(r.cum),
            share(r.cum),
            r.name
        );
    }
    out
}

fn seconds(nanos: i64) -> String {
    let s = nanos as f64 / 1e9;
    if s < 1.0 { format!("{:.0}ms", s * 1e3) } else { format!("{s:.2}s") }
}

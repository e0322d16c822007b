//! Compares two profiles of the same program record by record.

use std::collections::BTreeMap;

use crate::Profile;

/// A complete stack (function, source position, line of the `func`) with its labels.
pub type Record = (Vec<String>, String);

/// The values of each record. `depth` is how many frames this version of Go keeps.
#[must_use]
pub fn records(profile: &Profile, depth: usize) -> BTreeMap<Record, Vec<i64>> {
    let mut all: BTreeMap<Record, Vec<i64>> = BTreeMap::new();
    for sample in &profile.samples {
        if sample.values.iter().all(|v| *v == 0) {
            continue;
        }
        let stack = sample.stack.iter().take(depth).map(|f| {
            let inlined = if f.inlined { " inlined" } else { "" };
            format!("{}{inlined} {}:{} from {}", f.function, f.file, f.line, f.start_line)
        });
        let key = (stack.collect(), format!("{:?}", sample.labels));
        let sums = all.entry(key).or_insert_with(|| vec![0; sample.values.len()]);
        sums.iter_mut().zip(&sample.values).for_each(|(sum, v)| *sum += v);
    }
    all
}

/// Asserts that both profiles have the same records with the same values.
///
/// # Panics
/// When they differ; shows some of the differences.
#[track_caller]
pub fn assert_same(
    ours: &BTreeMap<Record, Vec<i64>>,
    theirs: &BTreeMap<Record, Vec<i64>>,
    what: &str,
) {
    let only = |a: &BTreeMap<Record, Vec<i64>>, b: &BTreeMap<Record, Vec<i64>>| {
        let differs = a.iter().filter(|(k, v)| b.get(*k) != Some(v)).take(3);
        differs.map(|(k, v)| format!("{v:?} {}\n  {}\n", k.1, k.0.join("\n  "))).collect::<String>()
    };
    let (more, less) = (only(ours, theirs), only(theirs, ours));
    assert!(
        more.is_empty() && less.is_empty(),
        "{what}\n--- only ours:\n{more}--- only the program's:\n{less}"
    );
}

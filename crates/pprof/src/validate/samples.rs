//! Checks samples and their labels.

use std::collections::{HashMap, HashSet};

use super::violation::{Violation, Violations};
use super::wire::WireTables;
use crate::proto;

pub(super) fn check(p: &WireTables<'_>, found: &mut Violations) {
    let expected = p.profile.sample_type.len();
    let mut known = HashMap::new();
    let mut is_numeric = HashMap::new();
    for (sample, wire) in p.profile.sample.iter().enumerate() {
        let given = wire.value.len();
        found.add_if(given != expected, || Violation::ValueCount { sample, given, expected });
        for &value in wire.value.iter().filter(|v| **v < 0) {
            found.add(Violation::NegativeValue { sample, value });
        }
        found.add_if(wire.location_id.is_empty(), || Violation::EmptyStack { sample });
        for &id in wire.location_id.iter().filter(|id| !p.locations.contains_key(id)) {
            let from = format!("sample {sample}");
            found.add(Violation::Dangling { from, table: "location", id });
        }
        labels(p, sample, &wire.label, &mut is_numeric, found);
        let mut sorted: Vec<&proto::Label> = wire.label.iter().collect();
        sorted.sort_by_key(|l| (l.key, l.str, l.num, l.num_unit));
        match known.entry((&wire.location_id, sorted)) {
            std::collections::hash_map::Entry::Occupied(first) => {
                found.add(Violation::DuplicateSample { sample, first: *first.get() });
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(sample);
            }
        }
    }
}

/// `is_numeric` has, for each key so far, whether its values are numbers.
fn labels<'p>(
    p: &WireTables<'p>,
    sample: usize,
    labels: &[proto::Label],
    is_numeric: &mut HashMap<&'p str, bool>,
    found: &mut Violations,
) {
    let mut keys = HashSet::new();
    for label in labels {
        let name = p.text(label.key, "Label.key", found);
        let text = p.text(label.str, "Label.str", found);
        let unit = p.text(label.num_unit, "Label.num_unit", found);
        let key = || name.to_owned();
        let is_number = label.str == 0;
        found.add_if(name.is_empty(), || Violation::NoLabelKey { sample });
        found.add_if(!keys.insert(name), || Violation::RepeatedLabel { sample, key: key() });
        found.add_if(!text.is_empty() && (label.num != 0 || label.num_unit != 0), || {
            Violation::LabelWithBoth { sample, key: key() }
        });
        found.add_if(name.starts_with("pprof::"), || Violation::ReservedLabel {
            sample,
            key: key(),
        });
        found.add_if(is_number && unit.is_empty(), || Violation::LabelWithoutUnit {
            sample,
            key: key(),
        });
        let before = *is_numeric.entry(name).or_insert(is_number);
        found.add_if(before != is_number, || Violation::MixedLabel { sample, key: key() });
    }
}

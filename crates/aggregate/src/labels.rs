//! Stores each distinct set of labels that the targets have set once.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::ids::{LabelSet, LabelsIndex};

/// Maximum number of distinct label sets.
const MAX_LABEL_SETS: usize = 100_000;

/// All label sets of a recording, by index; index 0 is the empty set.
#[derive(Default)]
pub struct LabelSets {
    sets: Vec<LabelSet>,
    index: FxHashMap<LabelSet, LabelsIndex>,
    /// Samples whose labels were dropped.
    left_out: u64,
}

impl LabelSets {
    /// The index of a label set; 0 if there are too many sets. If several labels have the same key,
    /// the one whose value sorts first is kept.
    pub fn intern(&mut self, mut labels: Vec<(String, String)>) -> LabelsIndex {
        if labels.is_empty() {
            return 0;
        }
        labels.sort();
        labels.dedup_by(|a, b| a.0 == b.0);
        let set: LabelSet = labels.into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v))).collect();
        if let Some(index) = self.index.get(&set) {
            return *index;
        }
        if self.sets.len() >= MAX_LABEL_SETS {
            self.left_out += 1;
            return 0;
        }
        self.sets.push(set.clone());
        let index = self.sets.len() as LabelsIndex;
        self.index.insert(set, index);
        index
    }

    /// The label set at an index, sorted by key.
    pub fn get(&self, index: LabelsIndex) -> &[(Arc<str>, Arc<str>)] {
        let at = (index as usize).checked_sub(1);
        at.and_then(|i| self.sets.get(i)).map_or(&[], |set| set)
    }

    /// A note for the profile's comments if labels were dropped.
    pub(crate) fn note(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!(
                "samples whose labels were dropped: {} (more than {MAX_LABEL_SETS} distinct sets)",
                self.left_out
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_have_one_index() {
        let mut sets = LabelSets::default();
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let first = sets.intern(vec![label("b", "2"), label("a", "1")]);
        assert_eq!(sets.intern(vec![label("a", "1"), label("b", "2"), label("b", "3")]), first);
        assert_ne!(sets.intern(vec![label("a", "1")]), first);
        assert_eq!(sets.intern(Vec::new()), 0);
        assert_eq!(sets.get(0), []);
        assert_eq!(sets.get(first)[1], ("b".into(), "2".into()));
        assert_eq!(sets.note(), None);
    }

    #[test]
    fn labels_beyond_the_limit_are_dropped_and_counted() {
        let mut sets = LabelSets::default();
        let one = |i: usize| vec![("k".to_owned(), i.to_string())];
        for i in 1..=MAX_LABEL_SETS {
            assert_eq!(sets.intern(one(i)) as usize, i);
        }
        assert_eq!(sets.note(), None);
        assert_eq!(sets.intern(one(0)), 0);
        assert_eq!(sets.intern(one(7)), 7, "known sets are still found");
        assert_eq!(sets.get(7)[0].1, "7".into());
        let note = sets.note().expect("one was dropped");
        assert!(note.starts_with("samples whose labels were dropped: 1 "), "{note}");
    }
}

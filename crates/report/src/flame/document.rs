//! Collects the data of a flame graph page and writes it as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use pprof::LabelValue;

use super::json;
use super::origin::Origins;
use super::tree::{FlameTree, Shape};
use crate::labels::is_thread_name;
use crate::report::Report;

/// The most nodes of a tree: a few hundred kilobytes, more than anybody zooms into.
const MAX_NODES: usize = 40_000;
/// The most nodes of a tree that is grouped by a label.
const MAX_GROUPED_NODES: usize = 15_000;
/// Labels with more values than this are not offered for grouping.
const MAX_VALUES: usize = 500;
/// The most labels that are offered for grouping.
const MAX_KEYS: usize = 4;

/// A flame graph with some of its trees: inverted or not, grouped by a label or not.
#[derive(Debug)]
pub struct Document {
    pub(super) title: String,
    pub(super) about: Vec<String>,
    sample_type: String,
    unit: String,
    is_diff: bool,
    pub(super) origins: Origins,
    /// The labels that can be grouped by.
    labels: Vec<String>,
    pub(super) trees: Vec<(Grouping, FlameTree)>,
}

/// Identifies a tree of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grouping {
    /// The key of the label to group by, if any.
    pub by: Option<String>,
    /// Leaves at the top level, callers below their callees.
    pub inverted: bool,
}

impl Report<'_> {
    /// A flame graph with all its trees.
    #[must_use]
    pub fn flame_document(&self) -> Document {
        let keys = self.label_keys().into_iter().map(Some);
        let groupings = std::iter::once(None)
            .chain(keys)
            .flat_map(|by| [false, true].map(|inverted| Grouping { by: by.clone(), inverted }));
        self.document(groupings)
    }

    /// A flame graph with one tree.
    #[must_use]
    pub fn flame_document_of(&self, grouping: Grouping) -> Document {
        self.document(std::iter::once(grouping))
    }

    fn document(&self, groupings: impl Iterator<Item = Grouping>) -> Document {
        let trees = groupings.map(|grouping| {
            let max_nodes = if grouping.by.is_some() { MAX_GROUPED_NODES } else { MAX_NODES };
            let Grouping { by, inverted } = grouping.clone();
            (grouping, self.flame(&Shape { inverted, by, max_nodes }))
        });
        let trees: Vec<_> = trees.collect();
        let kind = &self.work.profile.sample_types[self.value];
        Document {
            title: self.title(),
            about: self.about(),
            sample_type: kind.kind.to_string(),
            unit: kind.unit.to_string(),
            origins: self.origins(),
            labels: self.label_keys(),
            is_diff: trees.first().is_some_and(|(_, tree)| tree.base > 0),
            trees,
        }
    }

    /// The label keys that samples can be grouped by: those with text values, threads first.
    #[must_use]
    pub fn label_keys(&self) -> Vec<String> {
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for sample in self.work.samples() {
            for label in self.work.labels(sample) {
                let LabelValue::Text(text) = &label.value else { continue };
                let of_key = values.entry(&label.key).or_default();
                if of_key.len() <= MAX_VALUES {
                    of_key.insert(text);
                }
            }
        }
        let usable = |(key, values): &(&&str, &BTreeSet<&str>)| {
            !key.starts_with("pprof::") && values.len() <= MAX_VALUES
        };
        let mut keys: Vec<&str> = values.iter().filter(usable).map(|(key, _)| *key).collect();
        keys.sort_by_key(|key| !is_thread_name(key));
        keys.into_iter().take(MAX_KEYS).map(str::to_owned).collect()
    }
}

impl Document {
    /// The document as JSON. A node is a row of numbers: name, depth, weight and, in a difference,
    /// the base's part of the weight.
    #[must_use]
    pub fn json(&self) -> String {
        let mut names = Names::new(&self.origins);
        let mut trees = String::new();
        for (nth, (grouping, tree)) in self.trees.iter().enumerate() {
            trees.push_str(if nth == 0 { "" } else { "," });
            trees.push_str("{\"by\":");
            json::string(grouping.by.as_deref().unwrap_or_default(), &mut trees);
            let _ = write!(trees, ",\"inverted\":{},\"nodes\":[", grouping.inverted);
            for (nth, node) in tree.nodes.iter().enumerate() {
                trees.push_str(if nth == 0 { "" } else { "," });
                let name = names.number(&tree.names[node.name as usize], node.name);
                let _ = write!(trees, "{name},{},{}", node.depth, node.weight);
                if self.is_diff {
                    let _ = write!(trees, ",{}", node.base);
                }
            }
            trees.push_str("]}");
        }
        let (total, base) = self.trees.first().map_or((0, 0), |(_, t)| (t.total, t.base));
        let mut out = String::from("{\"title\":");
        json::string(&self.title, &mut out);
        out.push_str(",\"about\":");
        json::string(&self.about.join("\n"), &mut out);
        out.push_str(",\"type\":");
        json::string(&self.sample_type, &mut out);
        out.push_str(",\"unit\":");
        json::string(&self.unit, &mut out);
        let _ = write!(out, ",\"total\":{total},\"base\":{base},\"diff\":{}", self.is_diff);
        out.push_str(",\"labels\":[");
        for (nth, label) in self.labels.iter().enumerate() {
            out.push_str(if nth == 0 { "" } else { "," });
            json::string(label, &mut out);
        }
        out.push(']');
        let _ = write!(out, ",\"names\":[{}],\"origin\":[{}]", names.list, names.origin);
        out.push_str(",\"origins\":[");
        for (nth, origin) in self.origins.all.iter().take(names.origin_count).enumerate() {
            out.push_str(if nth == 0 { "[" } else { ",[" });
            json::string(&origin.name, &mut out);
            let _ = write!(out, ",{},{}]", origin.hue, origin.weight);
        }
        let _ = write!(out, "],\"trees\":[{trees}]}}");
        out
    }
}

/// Numbers the names that occur.
struct Names<'n> {
    origins: &'n Origins,
    numbers: std::collections::HashMap<&'n str, usize>,
    list: String,
    /// The origin of each name, or -1.
    origin: String,
    /// The number of origins up to the last one that occurs.
    origin_count: usize,
}

impl<'n> Names<'n> {
    fn new(origins: &'n Origins) -> Self {
        let (numbers, list, origin) = Default::default();
        Self { origins, numbers, list, origin, origin_count: 0 }
    }

    /// The number of a name. `entry` is its entry, or is out of range for other names.
    fn number(&mut self, name: &'n str, entry: u32) -> usize {
        let next = self.numbers.len();
        let Self { origins, numbers, list, origin, origin_count } = self;
        *numbers.entry(name).or_insert_with(|| {
            let comma = if next == 0 { "" } else { "," };
            list.push_str(comma);
            json::string(name, list);
            let _ = match origins.of_entries.get(entry as usize) {
                Some(at) => {
                    *origin_count = (*origin_count).max(at + 1);
                    write!(origin, "{comma}{at}")
                }
                None => write!(origin, "{comma}-1"),
            };
            next
        })
    }
}

//! Builds the graph of a report: entries with weights, and calls between them.

mod edges;
mod node;
mod order;

use std::collections::HashMap;

use pprof::{LocationIndex, SampleRef};

pub(crate) use edges::{Edge, EdgeFilter, Edges};
pub(crate) use node::{Detail, NodeInfo, is_kernel, trimmed};
pub(crate) use order::magnitude;

use crate::work::FilteredProfile;
use node::Namer;

/// A position in [`Graph::nodes`].
pub(crate) type NodeId = u32;

/// An entry of a report.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) info: NodeInfo,
    /// The weight of the entry itself.
    pub(crate) flat: i64,
    /// The weight of the entry and its callees.
    pub(crate) cum: i64,
    /// Whether it is inlined into another entry in some location.
    pub(crate) may_be_inline: bool,
}

impl Node {
    const fn is_zero(&self) -> bool {
        self.flat == 0 && self.cum == 0
    }
}

/// All entries with their weights.
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// The entries of all locations, innermost first.
    ids: Vec<NodeId>,
    /// The end of each location's entries in `ids`.
    ends: Vec<usize>,
}

impl Graph {
    /// The entries of all locations, with weight 0.
    pub(crate) fn of_locations(work: &FilteredProfile<'_>, detail: Detail) -> Self {
        let profile = work.profile;
        let namer = Namer::new(profile, detail, &work.trim_path);
        let mut known: HashMap<NodeInfo, NodeId> = HashMap::new();
        let mut graph = Self { nodes: Vec::new(), ids: Vec::new(), ends: Vec::new() };
        let unnamed = [pprof::Line::default()];
        for (at, location) in profile.locations.iter().enumerate() {
            let lines = match work.lines(at) {
                [] => unnamed.as_slice(),
                lines => lines,
            };
            // Hidden locations are part of no stack.
            let lines = if work.is_hidden(location_index(at)) { &[] } else { lines };
            for (nth, line) in lines.iter().enumerate() {
                let info = namer.info(location, line);
                let id = *known.entry(info).or_insert_with_key(|info| {
                    let (info, may_be_inline) = (info.clone(), false);
                    graph.nodes.push(Node { info, flat: 0, cum: 0, may_be_inline });
                    // There are at most as many entries as lines, and fewer than 2³² lines, because
                    // the file has less than 2³² bytes.
                    NodeId::try_from(graph.nodes.len() - 1).unwrap_or(NodeId::MAX)
                });
                graph.nodes[id as usize].may_be_inline |= nth + 1 < lines.len();
                graph.ids.push(id);
            }
            graph.ends.push(graph.ids.len());
        }
        graph
    }

    /// The entries with the weights of the samples.
    pub(crate) fn new(work: &FilteredProfile<'_>, detail: Detail, value: usize) -> Self {
        let mut graph = Self::of_locations(work, detail);
        // The last sample counted for each entry: recursion must not count a sample twice.
        let mut seen = vec![0_u32; graph.nodes.len()];
        let mut sums = vec![(0_i64, 0_i64); graph.nodes.len()];
        for (nth, sample) in (1_u32..).zip(work.samples()) {
            let weight = sample.value(value);
            if weight == 0 {
                continue;
            }
            let mut leaf = None;
            for location in sample.locations {
                for id in graph.at(*location) {
                    let at = *id as usize;
                    leaf.get_or_insert(at);
                    if seen[at] != nth {
                        seen[at] = nth;
                        sums[at].1 = sums[at].1.wrapping_add(weight);
                    }
                }
            }
            if let Some(leaf) = leaf {
                sums[leaf].0 = sums[leaf].0.wrapping_add(weight);
            }
        }
        for (node, (flat, cum)) in graph.nodes.iter_mut().zip(sums) {
            (node.flat, node.cum) = (flat, cum);
        }
        graph
    }

    /// The entries of a location, innermost first. Empty for a hidden location.
    pub(crate) fn at(&self, location: LocationIndex) -> &[NodeId] {
        let at = location.index();
        let begin = at.checked_sub(1).and_then(|l| self.ends.get(l)).copied().unwrap_or(0);
        self.ends.get(at).and_then(|end| self.ids.get(begin..*end)).unwrap_or_default()
    }

    /// The entries with a weight other than 0.
    pub(crate) fn used(&self) -> Vec<NodeId> {
        let numbered = (0..).zip(&self.nodes);
        numbered.filter(|(_, n)| !n.is_zero()).map(|(id, _)| id).collect()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// The sum of the flat weights.
    pub(crate) fn flat_sum(&self, ids: &[NodeId]) -> i64 {
        ids.iter().fold(0, |sum, id| sum.wrapping_add(self.node(*id).flat))
    }

    /// The sum of the cumulative weights.
    pub(crate) fn cum_sum(&self, ids: &[NodeId]) -> i64 {
        ids.iter().fold(0, |sum, id| sum.wrapping_add(self.node(*id).cum))
    }

    /// The frames of a sample from root to leaf: the entry, and whether it is inlined into the
    /// previous one.
    pub(crate) fn frames_from_root(
        &self,
        sample: SampleRef<'_>,
    ) -> impl Iterator<Item = (NodeId, bool)> {
        sample.locations.iter().rev().flat_map(|location| {
            let ids = self.at(*location);
            ids.iter().enumerate().rev().map(|(nth, id)| (*id, nth + 1 < ids.len()))
        })
    }
}

pub(crate) fn location_index(at: usize) -> LocationIndex {
    LocationIndex::new(u32::try_from(at).unwrap_or(u32::MAX))
}

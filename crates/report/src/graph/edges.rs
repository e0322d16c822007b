//! Sums up the calls between entries.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::order::magnitude;
use super::{Graph, NodeId};
use crate::work::FilteredProfile;

/// A call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    /// The entry at the other end.
    pub(crate) other: NodeId,
    /// The weight of the call.
    pub(crate) weight: i64,
    /// Whether the callee is inlined in every such call.
    pub(crate) is_inline: bool,
}

#[derive(Debug)]
struct Sum {
    weight: i64,
    is_inline: bool,
    /// The last counted sample.
    seen: u32,
}

/// The wanted calls between entries of a graph.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    into: HashMap<NodeId, Vec<Edge>>,
    out_of: HashMap<NodeId, Vec<Edge>>,
}

/// Which calls are collected, by flags for each entry.
pub(crate) struct EdgeFilter<'g> {
    /// Entries that are part of the graph; `None` for all. Calls skip other entries as if they were
    /// not in the stack.
    pub(crate) kept: Option<&'g [bool]>,
    /// Entries whose callers are wanted.
    pub(crate) callers_of: &'g [bool],
    /// Entries whose callees are wanted.
    pub(crate) callees_of: &'g [bool],
}

impl Edges {
    /// Collects calls from the samples.
    pub(crate) fn new(
        work: &FilteredProfile<'_>,
        graph: &Graph,
        value: usize,
        wanted: &EdgeFilter<'_>,
    ) -> Self {
        let mut sums: HashMap<(NodeId, NodeId), Sum> = HashMap::new();
        for (seen, sample) in (1_u32..).zip(work.samples()) {
            let weight = sample.value(value);
            if weight == 0 {
                continue;
            }
            let mut caller: Option<NodeId> = None;
            for (callee, is_inline) in graph.frames_from_root(sample) {
                if wanted.kept.is_some_and(|kept| !kept[callee as usize]) {
                    continue;
                }
                let Some(caller) = caller.replace(callee) else { continue };
                let is_wanted =
                    wanted.callers_of[callee as usize] || wanted.callees_of[caller as usize];
                if caller == callee || !is_wanted {
                    continue;
                }
                let new = Sum { weight: 0, is_inline, seen: 0 };
                let sum = sums.entry((caller, callee)).or_insert(new);
                if sum.seen != seen {
                    sum.seen = seen;
                    sum.weight = sum.weight.wrapping_add(weight);
                    sum.is_inline &= is_inline;
                }
            }
        }
        let mut edges = Self::default();
        for ((caller, callee), Sum { weight, is_inline, .. }) in sums {
            let edge = |other| Edge { other, weight, is_inline };
            edges.into.entry(callee).or_default().push(edge(caller));
            edges.out_of.entry(caller).or_default().push(edge(callee));
        }
        edges
    }

    /// Drops calls below `cutoff`. As in pprof, calls of entries that are not shown stay.
    pub(crate) fn trim(&mut self, shown: &[bool], cutoff: i64) {
        let is_heavy = |e: &Edge| magnitude(e.weight) >= cutoff;
        for (callee, edges) in &mut self.into {
            if shown[*callee as usize] {
                edges.retain(is_heavy);
            }
        }
        for edges in self.out_of.values_mut() {
            edges.retain(|e| !shown[e.other as usize] || is_heavy(e));
        }
    }

    /// The callers of an entry, in no particular order.
    pub(crate) fn callers(&self, of: NodeId) -> &[Edge] {
        self.into.get(&of).map_or(&[], Vec::as_slice)
    }

    /// The callers of an entry, with their names, heaviest first.
    pub(crate) fn sorted_callers(&self, graph: &Graph, of: NodeId) -> Vec<(Edge, String)> {
        sorted(graph, self.callers(of))
    }

    /// The callees of an entry, with their names, heaviest first.
    pub(crate) fn sorted_callees(&self, graph: &Graph, of: NodeId) -> Vec<(Edge, String)> {
        sorted(graph, self.out_of.get(&of).map_or(&[], Vec::as_slice))
    }
}

fn sorted(graph: &Graph, edges: &[Edge]) -> Vec<(Edge, String)> {
    let named = edges.iter().map(|e| (*e, graph.node(e.other).info.printable()));
    let mut named: Vec<(Edge, String)> = named.collect();
    named.sort_unstable_by(|(a, a_name), (b, b_name)| {
        let key = |e: &Edge| (Reverse(magnitude(e.weight)), Reverse(e.weight));
        let by_name = || a_name.cmp(b_name).then(a.is_inline.cmp(&b.is_inline));
        key(a).cmp(&key(b)).then_with(by_name).then(a.other.cmp(&b.other))
    });
    named
}

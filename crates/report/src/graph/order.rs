//! Sorts entries.

use std::cmp::Reverse;

use super::{Graph, NodeId};

impl Graph {
    /// Sorts entries by flat or (`cum`) cumulative weight, heaviest first; entries of equal weight by
    /// name.
    pub(crate) fn sort(&self, ids: &mut [NodeId], cum: bool) {
        let weight = |id: NodeId| {
            let node = self.node(id);
            let (first, second) = if cum { (node.cum, node.flat) } else { (node.flat, node.cum) };
            (magnitude(first), magnitude(second))
        };
        // Only entries of equal weight need names.
        ids.sort_unstable_by_key(|id| Reverse(weight(*id).0));
        for ties in ids.chunk_by_mut(|a, b| weight(*a).0 == weight(*b).0) {
            if ties.len() > 1 {
                ties.sort_by_cached_key(|id| {
                    let info = &self.node(*id).info;
                    (info.printable(), Reverse(weight(*id).1), info.sort_key())
                });
            }
        }
    }
}

/// The absolute value as Go computes it: `i64::MIN` stays negative.
pub(crate) const fn magnitude(v: i64) -> i64 {
    v.wrapping_abs()
}

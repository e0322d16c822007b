//! The order of entries.

use std::cmp::Reverse;

use super::{Graph, NodeId};

impl Graph {
    /// Sorts entries by what was spent in them, alone or (`cum`) with their callees; by name where
    /// that is equal.
    pub(crate) fn sort(&self, ids: &mut [NodeId], cum: bool) {
        let weight = |id: NodeId| {
            let node = self.node(id);
            let (first, second) = if cum { (node.cum, node.flat) } else { (node.flat, node.cum) };
            (magnitude(first), magnitude(second))
        };
        // Names are made for entries with rivals only.
        ids.sort_unstable_by_key(|id| Reverse(weight(*id).0));
        for rivals in ids.chunk_by_mut(|a, b| weight(*a).0 == weight(*b).0) {
            if rivals.len() > 1 {
                rivals.sort_by_cached_key(|id| {
                    let info = &self.node(*id).info;
                    (info.printable(), Reverse(weight(*id).1), info.sort_key())
                });
            }
        }
    }
}

/// The absolute value as Go computes it: the smallest integer stays negative.
pub(crate) const fn magnitude(v: i64) -> i64 {
    v.wrapping_abs()
}

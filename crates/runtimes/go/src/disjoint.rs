//! Notices objects that share memory.
//!
//! The objects that the runtime allocates (goroutines, threads, records of samples) never overlap,
//! so a list of them costs the target as much memory as it costs us. In a hostile target one
//! object can stand for millions: lists that lead to the same memory again and again.

use std::collections::BTreeMap;

use image::Avma;

/// Ranges of memory that do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Disjoint {
    /// The end of each range, by its start.
    ranges: BTreeMap<u64, u64>,
}

impl Disjoint {
    /// Adds the range [start, end), unless it shares memory with an earlier one. Returns whether it
    /// was added.
    pub(crate) fn add(&mut self, start: u64, end: u64) -> bool {
        let free = self.is_free(start, end);
        if free {
            self.ranges.insert(start, last(start, end));
        }
        free
    }

    /// Whether no range that was added shares memory with [start, end).
    pub(crate) fn is_free(&self, start: u64, end: u64) -> bool {
        let before = self.ranges.range(..last(start, end)).next_back();
        before.is_none_or(|(_, end)| *end <= start)
    }
}

/// The end of a range of at least one byte.
fn last(start: u64, end: u64) -> u64 {
    end.max(start.saturating_add(1))
}

/// Whether no two objects of `size` bytes at these addresses share memory.
pub(crate) fn are_disjoint(addresses: &[Avma], size: usize) -> bool {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    let size = size.max(1) as u64;
    sorted.windows(2).all(|pair| pair[1].0 - pair[0].0 >= size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_share_a_byte_are_refused() {
        let mut ranges = Disjoint::default();
        assert!(ranges.add(100, 200) && ranges.add(0, 50) && ranges.add(50, 100));
        assert!(ranges.add(u64::MAX, u64::MAX), "the last address");
        // Inside, around, at either end, and empty.
        for (start, end) in [(120, 130), (10, 500), (199, 300), (40, 60), (150, 150), (160, 3)] {
            assert!(!ranges.add(start, end), "{start}..{end}");
        }
        // A refused range hides nothing that was added before.
        assert!(!ranges.add(180, 181) && ranges.add(200, 201));
    }

    #[test]
    fn objects_closer_than_their_size_share_memory() {
        let at = |all: &[u64]| all.iter().map(|a| Avma(*a)).collect::<Vec<_>>();
        assert!(are_disjoint(&at(&[]), 16) && are_disjoint(&at(&[48, 16, 32]), 16));
        assert!(!are_disjoint(&at(&[48, 16, 47]), 16) && !are_disjoint(&at(&[8, 8]), 16));
        assert!(!are_disjoint(&at(&[8, 8]), 0), "the same address twice");
    }
}

//! Indexes append-only tables by hash, without a second copy of the entries.

use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// Finds an entry of an append-only table by its content.
///
/// It holds only hashes and positions. The entries stay in their table, in output order, so the hash
/// function does not affect the output.
#[derive(Debug, Clone, Default)]
pub(crate) struct HashIndex {
    slots: HashTable<(u64, u32)>,
}

impl HashIndex {
    /// The position whose entry has this hash and satisfies `is_equal`.
    pub(crate) fn find(&self, hash: u64, mut is_equal: impl FnMut(u32) -> bool) -> Option<u32> {
        self.slots.find(hash, |&(h, at)| h == hash && is_equal(at)).map(|&(_, at)| at)
    }

    /// Records an entry that [`find`](Self::find) did not find.
    pub(crate) fn insert(&mut self, hash: u64, at: u32) {
        self.slots.insert_unique(hash, (hash, at), |&(h, _)| h);
    }
}

/// The hash of one key.
pub(crate) fn hash_of(key: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    hasher.finish()
}

//! Strings that are shared between frames, within a bound.

use std::sync::Arc;

use rustc_hash::FxHashSet;

/// All names and paths of one batch. Real binaries with 100,000 functions stay below 20 MiB; a
/// crafted file can make every DIE name a different part of one huge string.
const MAX_TOTAL_BYTES: usize = 128 << 20;

/// Gives equal strings the same allocation.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: FxHashSet<Arc<str>>,
    bytes: usize,
    full: bool,
}

impl Interner {
    /// `None` where the batch already holds as much text as it may.
    pub(crate) fn intern(&mut self, s: &str) -> Option<Arc<str>> {
        if let Some(known) = self.strings.get(s) {
            return Some(Arc::clone(known));
        }
        if self.bytes.saturating_add(s.len()) > MAX_TOTAL_BYTES {
            self.full = true;
            return None;
        }
        self.bytes += s.len();
        let new: Arc<str> = s.into();
        self.strings.insert(Arc::clone(&new));
        Some(new)
    }

    /// Whether anything was refused.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }
}

//! Shares equal strings between frames, up to a limit of memory.

use std::sync::Arc;

use rustc_hash::FxHashSet;

/// Limit of all names and paths of one batch, in bytes. Real binaries with 100,000 functions need
/// less than 20 MiB; in a crafted file every DIE can name another part of one huge string.
const MAX_TOTAL_BYTES: usize = 128 << 20;

/// Gives equal strings the same allocation.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: FxHashSet<Arc<str>>,
    bytes: usize,
    full: bool,
}

impl Interner {
    /// The shared copy of a string; `None` if it would exceed the limit.
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

    /// Whether a string was refused.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }
}

//! Copied structs, and words of them.

use image::{Avma, Memory, Unreadable};

/// A copied struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block(Vec<u8>);

impl Block {
    pub(crate) fn read<M: Memory + ?Sized>(
        memory: &M,
        at: Avma,
        size: usize,
    ) -> Result<Self, Unreadable> {
        let mut bytes = vec![0; size];
        memory.read(at, &mut bytes)?;
        Ok(Self(bytes))
    }

    pub(crate) fn of_words(words: &[u64]) -> Self {
        Self(words.iter().flat_map(|w| w.to_le_bytes()).collect())
    }

    /// The word at an offset; 0 past the end, which callers size blocks to avoid.
    pub(crate) fn u64(&self, offset: u64) -> u64 {
        self.bytes(offset).map_or(0, u64::from_le_bytes)
    }

    pub(crate) fn u32(&self, offset: u64) -> u32 {
        self.bytes(offset).map_or(0, u32::from_le_bytes)
    }

    fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let at = usize::try_from(offset).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

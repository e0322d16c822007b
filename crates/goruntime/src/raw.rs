//! Reading fields, strings and arrays of a hostile address space.

use image::{Avma, Memory, Unreadable};

/// A copied struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block(Vec<u8>);

impl Block {
    pub(crate) fn read(memory: &dyn Memory, at: Avma, size: usize) -> Result<Self, Unreadable> {
        let mut bytes = vec![0; size];
        memory.read(at, &mut bytes)?;
        Ok(Self(bytes))
    }

    /// The word at an offset; 0 past the end, which callers size blocks to avoid.
    pub(crate) fn u64(&self, offset: u64) -> u64 {
        self.bytes(offset).map_or(0, u64::from_le_bytes)
    }

    pub(crate) fn u32(&self, offset: u64) -> u32 {
        self.bytes(offset).map_or(0, u32::from_le_bytes)
    }

    pub(crate) fn u8(&self, offset: u64) -> u8 {
        self.bytes(offset).map_or(0, |[b]: [u8; 1]| b)
    }

    fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let at = usize::try_from(offset).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

/// Reads `count` words.
pub(crate) fn words(memory: &dyn Memory, at: Avma, count: usize) -> Result<Vec<u64>, Unreadable> {
    let size = count.checked_mul(8).ok_or(Unreadable(at))?;
    let mut bytes = vec![0; size];
    memory.read(at, &mut bytes)?;
    let word = |c: &[u8]| u64::from_le_bytes(c.try_into().unwrap_or_default());
    Ok(bytes.chunks_exact(8).map(word).collect())
}

/// Reads a Go string {pointer, length}, cut at `most` bytes. The flag says whether it was cut.
pub(crate) fn string(
    memory: &dyn Memory,
    pointer: u64,
    length: u64,
    most: usize,
) -> Result<(String, bool), Unreadable> {
    let size = usize::try_from(length).unwrap_or(usize::MAX).min(most);
    let mut bytes = vec![0; size];
    if size > 0 {
        memory.read(Avma(pointer), &mut bytes)?;
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), size as u64 != length))
}

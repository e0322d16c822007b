//! Copies structs from memory and reads their fields.

use crate::{Avma, Memory, Unreadable};

/// A copy of a struct in little-endian memory. Offsets are in bytes. A field past the end reads as
/// 0, so copy enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructCopy(Vec<u8>);

impl StructCopy {
    /// Copies `size` bytes from the address `at`.
    ///
    /// # Errors
    /// [`Unreadable`] if any of them cannot be read.
    pub fn read<M: Memory + ?Sized>(memory: &M, at: Avma, size: usize) -> Result<Self, Unreadable> {
        let mut bytes = vec![0; size];
        memory.read(at, &mut bytes)?;
        Ok(Self(bytes))
    }

    /// The 64-bit field at an offset.
    #[must_use]
    pub fn u64(&self, offset: u64) -> u64 {
        self.field(offset).map_or(0, u64::from_le_bytes)
    }

    /// The 32-bit field at an offset.
    #[must_use]
    pub fn u32(&self, offset: u64) -> u32 {
        self.field(offset).map_or(0, u32::from_le_bytes)
    }

    /// The byte at an offset.
    #[must_use]
    pub fn u8(&self, offset: u64) -> u8 {
        self.field(offset).map_or(0, u8::from_le_bytes)
    }

    fn field<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let at = usize::try_from(offset).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

impl From<Vec<u8>> for StructCopy {
    /// Wraps a struct that was copied before.
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

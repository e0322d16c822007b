//! Limits the memory that a file can make the decoder allocate.

use super::error::DecodeError;

/// Limits on memory. The defaults are for trusted files; use [`Limits::of_file`] for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after decompression. 1 GiB.
    pub max_bytes: u64,
    /// Strings in the string table. 4 Mi, about 50 times as many as real profiles have.
    pub max_strings: usize,
    /// Bytes of the decoded profile and the decoder's tables. 8 GiB: each byte of a valid file can
    /// take 4 bytes of memory, as a frame does, and packed frames are charged at their maximum
    /// number.
    pub max_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1 << 30, max_strings: 1 << 22, max_memory: 8 << 30 }
    }
}

impl Limits {
    /// The limits for a file of `len` bytes, compressed or not.
    ///
    /// Compression shrinks profiles by a factor of 3 to 10, and a decoded profile takes up to 4 bytes
    /// per uncompressed byte. Only hostile files take much more, so the limits grow with the file.
    #[must_use]
    pub fn of_file(len: usize) -> Self {
        const MIN_BYTES: u64 = 96 << 20;
        const MIN_MEMORY: u64 = 192 << 20;
        let max = Self::default();
        let len = len as u64;
        Self {
            max_bytes: len.saturating_mul(20).clamp(MIN_BYTES, max.max_bytes),
            max_memory: len.saturating_mul(40).clamp(MIN_MEMORY, max.max_memory),
            ..max
        }
    }
}

/// The rest of [`Limits::max_memory`].
pub(super) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self { left: limits.max_memory, limit: limits.max_memory }
    }

    /// Subtracts `bytes`. Call this before the allocation.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(DecodeError::TooMuchMemory { limit: self.limit }),
        }
    }

    /// Subtracts the size of one `T`.
    pub(super) fn charge_one<T>(&mut self) -> Result<(), DecodeError> {
        self.charge(size_of::<T>())
    }
}

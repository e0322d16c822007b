//! Bounds on what a file may make the decoder allocate.

use super::DecodeError;

/// Bounds on memory. The defaults are for what is trusted; [`Limits::of_file`] is for what is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after decompression. 1 GiB.
    pub max_bytes: u64,
    /// Strings in the string table. 4 Mi: some fifty times what real profiles have.
    pub max_strings: usize,
    /// Bytes of the decoded profile with the scratch tables of decoding. 8 GiB: a byte of a file
    /// may become 4 in memory without any malice, since a frame does, and packed frames are charged
    /// by the most that there can be.
    pub max_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1 << 30, max_strings: 1 << 22, max_memory: 8 << 30 }
    }
}

impl Limits {
    /// The bounds for a file of `len` bytes, compressed or not.
    ///
    /// A profile shrinks to a third or a tenth when it is compressed, and takes up to four times as
    /// much memory as it has bytes. Only what is made to do harm takes much more than its file
    /// promises, so that large bounds are for large files.
    #[must_use]
    pub fn of_file(len: usize) -> Self {
        const LEAST_BYTES: u64 = 96 << 20;
        const LEAST_MEMORY: u64 = 192 << 20;
        let most = Self::default();
        let len = len as u64;
        Self {
            max_bytes: len.saturating_mul(20).clamp(LEAST_BYTES, most.max_bytes),
            max_memory: len.saturating_mul(40).clamp(LEAST_MEMORY, most.max_memory),
            ..most
        }
    }
}

/// What is left of [`Limits::max_memory`].
pub(super) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self { left: limits.max_memory, limit: limits.max_memory }
    }

    /// Takes `bytes` before they are allocated.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(DecodeError::TooMuchMemory { limit: self.limit }),
        }
    }

    /// Takes the room of one `T`.
    pub(super) fn charge_one<T>(&mut self) -> Result<(), DecodeError> {
        self.charge(size_of::<T>())
    }
}

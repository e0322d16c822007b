//! Reading another address space, live or recorded.

use crate::Avma;

/// The memory at this address cannot be read (not mapped, not captured, or gone).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory at {0} is not readable")]
pub struct Unreadable(pub Avma);

/// Memory of a target: a live process, a copied stack window, or a recording in a test.
///
/// Analyses (unwinding, the Go runtime's state) are written against this trait and make no
/// system calls of their own.
pub trait Memory {
    /// Fills all of `buf` from `addr` on, or reports the address as unreadable: never a part.
    ///
    /// # Errors
    /// [`Unreadable`] when any byte of the range cannot be read.
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable>;

    /// Reads several parts, each as [`Memory::read`] does and one after the other, with as few
    /// system calls as there can be. Whether each could be read is told in the part.
    fn read_many(&self, parts: &mut [Part]) {
        for part in parts {
            part.readable = self.read(part.at, &mut part.bytes).is_ok();
        }
    }

    /// Reads a little-endian 64-bit word.
    ///
    /// # Errors
    /// As [`Memory::read`].
    fn read_u64(&self, addr: Avma) -> Result<u64, Unreadable> {
        let mut b = [0; 8];
        self.read(addr, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    /// Reads a little-endian 32-bit word.
    ///
    /// # Errors
    /// As [`Memory::read`].
    fn read_u32(&self, addr: Avma) -> Result<u32, Unreadable> {
        let mut b = [0; 4];
        self.read(addr, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }
}

/// One of several parts to be read: see [`Memory::read_many`].
#[derive(Debug, Clone)]
pub struct Part {
    /// Where.
    pub at: Avma,
    /// As many bytes as are wanted.
    pub bytes: Vec<u8>,
    /// Whether they were read.
    pub readable: bool,
}

impl Part {
    /// So many bytes from there on.
    #[must_use]
    pub fn new(at: Avma, size: usize) -> Self {
        Self { at, bytes: vec![0; size], readable: false }
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(addr, buf)
    }

    fn read_many(&self, parts: &mut [Part]) {
        (**self).read_many(parts);
    }

    fn read_u64(&self, addr: Avma) -> Result<u64, Unreadable> {
        (**self).read_u64(addr)
    }

    fn read_u32(&self, addr: Avma) -> Result<u32, Unreadable> {
        (**self).read_u32(addr)
    }
}

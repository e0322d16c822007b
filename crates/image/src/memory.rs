//! Defines the interface for reading a process's memory, be it live, copied or recorded.

use crate::Avma;

/// The memory at this address cannot be read: it is not mapped, was not captured, or the process is
/// gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory at {0} is not readable")]
pub struct Unreadable(pub Avma);

/// The memory of a process: live, a copied part of a stack, or a recording in a test.
///
/// Analyses (unwinding, the state of language runtimes) only read memory through this trait and
/// make no system calls, so that they also work offline.
pub trait Memory {
    /// Fills `buf` with the memory from `addr` on, all of it or nothing.
    ///
    /// # Errors
    /// [`Unreadable`] when any byte of the range cannot be read.
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable>;

    /// Serves several requests in order, each as [`Memory::read`] does, with as few system calls as
    /// possible. Sets [`ReadRequest::readable`] of each.
    fn read_many(&self, requests: &mut [ReadRequest]) {
        for request in requests {
            request.readable = self.read(request.at, &mut request.bytes).is_ok();
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

/// A range of memory to read: see [`Memory::read_many`].
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The first address.
    pub at: Avma,
    /// The buffer, whose length is the number of bytes to read.
    pub bytes: Vec<u8>,
    /// Whether the bytes were read.
    pub readable: bool,
}

impl ReadRequest {
    /// A range of `size` bytes from `at` on, not read yet.
    #[must_use]
    pub fn new(at: Avma, size: usize) -> Self {
        Self { at, bytes: vec![0; size], readable: false }
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(addr, buf)
    }

    fn read_many(&self, requests: &mut [ReadRequest]) {
        (**self).read_many(requests);
    }

    fn read_u64(&self, addr: Avma) -> Result<u64, Unreadable> {
        (**self).read_u64(addr)
    }

    fn read_u32(&self, addr: Avma) -> Result<u32, Unreadable> {
        (**self).read_u32(addr)
    }
}

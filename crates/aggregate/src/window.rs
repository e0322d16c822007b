//! Makes the part of a stack that was copied with a sample readable as memory.

use image::{Avma, Memory, Unreadable};
use unwind::Registers;

/// The copied part of a stack.
pub(crate) struct StackWindow<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl<'a> StackWindow<'a> {
    /// `bytes` were copied from the stack pointer upwards.
    pub fn new(registers: &Registers, bytes: &'a [u8]) -> Self {
        Self { base: registers.sp().map_or(0, |sp| sp.0), bytes }
    }

    /// The address of the first copied byte.
    pub fn start(&self) -> Avma {
        Avma(self.base)
    }

    /// The copied bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Memory for StackWindow<'_> {
    #[inline]
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let at = usize::try_from(addr.0.wrapping_sub(self.base)).map_err(|_| Unreadable(addr))?;
        let end = at.checked_add(buf.len()).ok_or(Unreadable(addr))?;
        buf.copy_from_slice(self.bytes.get(at..end).ok_or(Unreadable(addr))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_copied_bytes_can_be_read() {
        let window = StackWindow { base: 0x1000, bytes: &[1, 2, 3, 4] };
        let read = |at: u64, len: usize| {
            let mut out = vec![0; len];
            window.read(Avma(at), &mut out).map(|()| out)
        };
        assert_eq!(read(0x1001, 3), Ok(vec![2, 3, 4]));
        assert_eq!(read(0x1001, 4), Err(Unreadable(Avma(0x1001))));
        assert_eq!(read(0xfff, 1), Err(Unreadable(Avma(0xfff))));
        assert_eq!((window.start(), window.bytes()), (Avma(0x1000), &[1, 2, 3, 4][..]));
    }
}

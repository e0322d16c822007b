//! Reading fields, strings and arrays of a hostile address space.

use std::cell::RefCell;

use image::{Avma, Memory, Unreadable};

const PAGE: u64 = 4096;
/// Enough for a list whose nodes were allocated one after the other, by several processors of Go's.
const KEPT: usize = 16;

/// Memory as it was when each page was first asked for; only the last few pages are kept. For
/// lists of many small nodes side by side: one system call per page, not two per node.
pub(crate) struct Paged<'a> {
    memory: &'a dyn Memory,
    kept: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl<'a> Paged<'a> {
    pub(crate) fn new(memory: &'a dyn Memory) -> Self {
        Self { memory, kept: RefCell::default() }
    }
}

impl Memory for Paged<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut kept = self.kept.borrow_mut();
        let (mut at, mut rest) = (addr.0, buf);
        while !rest.is_empty() {
            let (start, skip) = (at - at % PAGE, (at % PAGE) as usize);
            let part = rest.len().min(PAGE as usize - skip);
            if !kept.iter().any(|(page, _)| *page == start) {
                let full = kept.len() == KEPT;
                let mut page = if full { kept.remove(0).1 } else { vec![0; PAGE as usize] };
                self.memory.read(Avma(start), &mut page)?;
                kept.push((start, page));
            }
            let page = kept.iter().find(|(page, _)| *page == start);
            let bytes = page.and_then(|(_, p)| p.get(skip..skip + part));
            let (head, tail) = rest.split_at_mut(part);
            head.copy_from_slice(bytes.ok_or(Unreadable(addr))?);
            rest = tail;
            at = at.checked_add(part as u64).ok_or(Unreadable(addr))?;
        }
        Ok(())
    }
}

/// A copied struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block(Vec<u8>);

impl Block {
    pub(crate) fn read(memory: &dyn Memory, at: Avma, size: usize) -> Result<Self, Unreadable> {
        let mut bytes = vec![0; size];
        memory.read(at, &mut bytes)?;
        Ok(Self(bytes))
    }

    /// A struct that was copied already.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(bytes)
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

/// The word at an offset; 0 past the end.
pub(crate) fn u64_at(bytes: &[u8], offset: u64) -> u64 {
    let word = || {
        let at = usize::try_from(offset).ok()?;
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()
    };
    word().map_or(0, u64::from_le_bytes)
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

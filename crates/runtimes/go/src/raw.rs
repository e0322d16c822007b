//! Reads struct fields, strings and arrays from an address space that may be hostile.

use std::cell::RefCell;

use image::{Avma, Memory, Unreadable};

const PAGE: u64 = 4096;
/// Pages in the cache. Enough for a list whose nodes several of Go's processors allocated in turn.
const CACHED_PAGES: usize = 16;

/// Memory that caches the most recent pages as they were when first read. For lists of many small
/// adjacent nodes: one system call per page instead of two per node.
pub(crate) struct PageCache<'a> {
    memory: &'a dyn Memory,
    pages: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl<'a> PageCache<'a> {
    pub(crate) fn new(memory: &'a dyn Memory) -> Self {
        Self { memory, pages: RefCell::default() }
    }
}

impl Memory for PageCache<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut pages = self.pages.borrow_mut();
        let (mut at, mut rest) = (addr.0, buf);
        while !rest.is_empty() {
            let (start, skip) = (at - at % PAGE, (at % PAGE) as usize);
            let part = rest.len().min(PAGE as usize - skip);
            if !pages.iter().any(|(page, _)| *page == start) {
                let full = pages.len() == CACHED_PAGES;
                let mut page = if full { pages.remove(0).1 } else { vec![0; PAGE as usize] };
                self.memory.read(Avma(start), &mut page)?;
                pages.push((start, page));
            }
            let page = pages.iter().find(|(page, _)| *page == start);
            let bytes = page.and_then(|(_, p)| p.get(skip..skip + part));
            let (head, tail) = rest.split_at_mut(part);
            head.copy_from_slice(bytes.ok_or(Unreadable(addr))?);
            rest = tail;
            at = at.checked_add(part as u64).ok_or(Unreadable(addr))?;
        }
        Ok(())
    }
}

/// The word at a byte offset, or 0 past the end.
pub(crate) fn u64_at(bytes: &[u8], offset: u64) -> u64 {
    let word = || {
        let at = usize::try_from(offset).ok()?;
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()
    };
    word().map_or(0, u64::from_le_bytes)
}

/// Reads `count` 64-bit words.
pub(crate) fn words(memory: &dyn Memory, at: Avma, count: usize) -> Result<Vec<u64>, Unreadable> {
    let size = count.checked_mul(8).ok_or(Unreadable(at))?;
    let mut bytes = vec![0; size];
    memory.read(at, &mut bytes)?;
    let word = |c: &[u8]| u64::from_le_bytes(c.try_into().unwrap_or_default());
    Ok(bytes.chunks_exact(8).map(word).collect())
}

/// Reads a Go string {pointer, length} of at most `max` bytes, and whether it was truncated.
pub(crate) fn string(
    memory: &dyn Memory,
    pointer: u64,
    length: u64,
    max: usize,
) -> Result<(String, bool), Unreadable> {
    let size = usize::try_from(length).unwrap_or(usize::MAX).min(max);
    let mut bytes = vec![0; size];
    if size > 0 {
        memory.read(Avma(pointer), &mut bytes)?;
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), size as u64 != length))
}

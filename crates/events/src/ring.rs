//! Maps and reads the ring buffer of one perf event.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, ptr};

use perf_event_open_sys::bindings::{perf_event_header, perf_event_mmap_page};

/// Why a ring could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The locked-memory limit does not allow even the smallest useful ring.
    #[error(
        "cannot map a ring of {kib} KiB per CPU: the locked-memory limit is used up; \
         fix: sudo sysctl kernel.perf_event_mlock_kb=4096"
    )]
    Locked {
        /// The smallest size that was tried.
        kib: usize,
    },
    /// Anything else.
    #[error("cannot map a ring of {kib} KiB per CPU: {source}")]
    Map {
        /// The size that was tried.
        kib: usize,
        /// The system's reason.
        source: io::Error,
    },
}

/// A record as it is in the ring.
#[derive(Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub kind: u32,
    pub misc: u16,
    pub body: &'a [u8],
}

const HEADER: usize = size_of::<perf_event_header>();

/// A mapped ring. The kernel writes at `data_head`, we read from `tail` on.
pub(crate) struct Ring {
    meta: NonNull<perf_event_mmap_page>,
    mapped: usize,
    data: NonNull<u8>,
    size: usize,
    head: u64,
    tail: u64,
    /// A record that wraps around the end of the ring is copied here.
    scratch: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
#[allow(unsafe_code)]
unsafe impl Send for Ring {}

#[allow(unsafe_code)]
impl Ring {
    /// Maps the ring of an event, with `size` bytes of data (a power of two of pages).
    pub fn map(fd: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let page = page_size();
        let mapped = page + size;
        // SAFETY: a fresh shared mapping chosen by the kernel; the length is checked by it to be
        // one page and a power of two of pages.
        let base = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), mapped, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let meta = NonNull::new(base.cast::<perf_event_mmap_page>())
            .ok_or_else(|| io::Error::other("mmap gave the null page"))?;
        // SAFETY: one page further is still inside of the mapping of `page + size` bytes.
        let data = unsafe { meta.cast::<u8>().add(page) };
        Ok(Self { meta, mapped, data, size, head: 0, tail: 0, scratch: Vec::new() })
    }

    fn data_head(&self) -> &AtomicU64 {
        // SAFETY: the field lies in the mapped metadata page, is aligned, and the kernel and we
        // both access it as a 64-bit word for as long as `self` lives.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.meta.as_ptr()).data_head) }
    }

    fn data_tail(&self) -> &AtomicU64 {
        // SAFETY: as in `data_head`.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.meta.as_ptr()).data_tail) }
    }

    /// Reads how far the kernel has written.
    pub fn refresh(&mut self) {
        // ATOMICS: pairs with the kernel's store-release of data_head (perf_output_put_handle):
        // all bytes before the new head are visible after this load.
        self.head = self.data_head().load(Ordering::Acquire);
    }

    /// Frees the space of all records that we have advanced past.
    pub fn release(&mut self) {
        // ATOMICS: pairs with the kernel's load of data_tail before it writes: our reads of the
        // records are complete before it may overwrite them.
        self.data_tail().store(self.tail, Ordering::Release);
    }

    /// The next record, if it is complete. It stays in place until [`Ring::advance`].
    pub fn peek(&mut self) -> Option<RawRecord<'_>> {
        let available = self.head.wrapping_sub(self.tail);
        if available < HEADER as u64 {
            return None;
        }
        let mut header = [0; HEADER];
        self.copy_out(self.tail, &mut header);
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let misc = u16::from_le_bytes([header[4], header[5]]);
        let size = usize::from(u16::from_le_bytes([header[6], header[7]]));
        if size < HEADER || size as u64 > available {
            // Never seen. Nothing after it could be trusted: skip everything.
            self.tail = self.head;
            return None;
        }
        Some(RawRecord { kind, misc, body: self.contiguous(size) })
    }

    /// Prefetches the beginning of the next record, which another CPU wrote: header, registers and
    /// the frames of a stack of usual depth are read soon, once.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for offset in (0..2048).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            let at = self.index(self.tail.wrapping_add(offset));
            // SAFETY: `at` lies within the data area; a prefetch has no effect but on caches.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.data.as_ptr().add(at).cast()) };
        }
    }

    /// Advances past the record that [`Ring::peek`] returned.
    pub fn advance(&mut self, body_len: usize) {
        self.tail = self.tail.wrapping_add((HEADER + body_len) as u64);
    }

    fn contiguous(&mut self, size: usize) -> &[u8] {
        let start = self.index(self.tail.wrapping_add(HEADER as u64));
        let len = size - HEADER;
        if start + len <= self.size {
            // SAFETY: within the data area; the kernel does not touch bytes between tail and
            // head, and tail moves only through `advance` and `release`, which need `&mut self`.
            return unsafe { std::slice::from_raw_parts(self.data.as_ptr().add(start), len) };
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(len, 0);
        self.copy_out(self.tail.wrapping_add(HEADER as u64), &mut scratch);
        self.scratch = scratch;
        &self.scratch
    }

    fn index(&self, position: u64) -> usize {
        (position & (self.size as u64 - 1)) as usize
    }

    fn copy_out(&self, position: u64, out: &mut [u8]) {
        let start = self.index(position);
        let first = out.len().min(self.size - start);
        // SAFETY: both parts lie within the data area (`start < size`, `out` is no longer than a
        // record, and a record is never longer than the ring), and are not being written to.
        unsafe {
            ptr::copy_nonoverlapping(self.data.as_ptr().add(start), out.as_mut_ptr(), first);
            ptr::copy_nonoverlapping(
                self.data.as_ptr(),
                out.as_mut_ptr().add(first),
                out.len() - first,
            );
        }
    }
}

#[allow(unsafe_code)]
impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped; no reference into it outlives `self`.
        unsafe { libc::munmap(self.meta.as_ptr().cast(), self.mapped) };
    }
}

#[allow(unsafe_code)]
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

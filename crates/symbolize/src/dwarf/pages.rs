//! Limits how much of a mapped debug file is resident in memory.
//!
//! The kernel maps more than the page that is read: 64 KiB around it, or a huge page if the file is
//! cached in huge pages. So reading a header in each of many units, or names all over a large
//! string section, would make the whole file resident.

use std::sync::atomic::{AtomicUsize, Ordering};

use image::ElfImage;

/// Pages are released each time this many bytes may have become resident.
const LIMIT: usize = 32 << 20;
/// Bytes that one read makes resident at most: a huge page.
pub(crate) const AROUND: usize = 2 << 20;

/// An estimate of the resident pages of a file, shared by threads.
pub(crate) struct ResidentPages<'a> {
    image: Option<&'a ElfImage>,
    touched: AtomicUsize,
}

impl<'a> ResidentPages<'a> {
    /// The pages of a file; `None` if there is nothing to release.
    pub(crate) fn of(image: Option<&'a ElfImage>) -> Self {
        Self { image, touched: AtomicUsize::new(0) }
    }

    /// Records that this many contiguous bytes were read.
    pub(crate) fn touch(&self, bytes: usize) {
        let Some(image) = self.image else { return };
        if self.touched.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= LIMIT {
            self.touched.store(0, Ordering::Relaxed);
            image.release_pages();
        }
    }

    /// Records that a few bytes in a range of this many bytes were read.
    pub(crate) fn touch_within(&self, bytes: usize) {
        self.touch(bytes.min(AROUND));
    }

    /// Releases all pages, at the end of a look-up.
    pub(crate) fn release(&self) {
        if let Some(image) = self.image {
            image.release_pages();
        }
    }
}

//! Keeps the part of a mapped file small that counts as our memory.
//!
//! The kernel maps more than the page that is read: 64 KiB around it, or a huge page where the file
//! is cached in such. So looking at a header in each of many units, or at names all over a large
//! string section, makes the whole file resident.

use std::sync::atomic::{AtomicUsize, Ordering};

use image::ElfImage;

/// Given back each time so much may have become resident.
const LIMIT: usize = 32 << 20;
/// What one look at a distant place makes resident at most: a huge page.
pub(crate) const AROUND: usize = 2 << 20;

/// The pages of one file. Shared by threads.
pub(crate) struct Pages<'a> {
    image: Option<&'a ElfImage>,
    touched: AtomicUsize,
}

impl<'a> Pages<'a> {
    /// Of a file, or of nothing that is mapped.
    pub(crate) fn of(image: Option<&'a ElfImage>) -> Self {
        Self { image, touched: AtomicUsize::new(0) }
    }

    /// So many bytes in a row were read.
    pub(crate) fn touch(&self, bytes: usize) {
        let Some(image) = self.image else { return };
        if self.touched.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= LIMIT {
            self.touched.store(0, Ordering::Relaxed);
            image.release_pages();
        }
    }

    /// One place in so many bytes was read.
    pub(crate) fn touch_within(&self, bytes: usize) {
        self.touch(bytes.min(AROUND));
    }

    /// All is done.
    pub(crate) fn release(&self) {
        if let Some(image) = self.image {
            image.release_pages();
        }
    }
}

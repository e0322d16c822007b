//! Keeps decompressed debug sections of a file for several batches of addresses.

use std::borrow::Cow;

use image::{ElfImage, SectionReader};

/// Limit of what is decompressed of one file, in bytes.
const MAX_DECOMPRESSED: u64 = 2 << 30;

/// A reader with the limit of this crate.
pub(crate) fn reader(image: &ElfImage) -> SectionReader<'_> {
    SectionReader::new(image, MAX_DECOMPRESSED)
}

/// The sections of a file that had to be decompressed.
#[derive(Debug, Default)]
pub(crate) struct Decompressed {
    sections: Vec<(&'static str, Vec<u8>)>,
    /// See [`SectionReader::unreadable`].
    pub(crate) unreadable: u32,
}

impl Decompressed {
    /// Decompresses those of the sections that are compressed.
    pub(crate) fn read(image: &ElfImage, names: impl Iterator<Item = &'static str>) -> Self {
        let mut reader = reader(image);
        let mut sections = Vec::new();
        for name in names {
            if let Cow::Owned(bytes) = reader.read(name) {
                sections.push((name, bytes));
            }
        }
        Self { sections, unreadable: reader.unreadable() }
    }

    /// The bytes of one of the sections, decompressed or as they are in the file; empty if there
    /// is none that can be read.
    pub(crate) fn section<'a>(&'a self, image: &'a ElfImage, name: &str) -> &'a [u8] {
        if let Some((_, bytes)) = self.sections.iter().find(|(n, _)| *n == name) {
            return bytes;
        }
        image.section(name).filter(|s| !s.compressed).map_or(&[], |s| s.data)
    }

    /// Bytes that are held in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.sections.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

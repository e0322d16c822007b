//! The mappings of one process at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Avma, Bias, ElfImage, FileOffset, Svma};

/// Identifies one mapping for the whole of a session: never reused, so that a frame that was
/// interned as (mapping, address) stays right after the range was mapped anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId(pub u32);

/// The file behind a mapping, as the kernel identifies it in `/proc/PID/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
}

/// Why there is no image for a mapping: an expected absence, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageAbsence {
    /// Anonymous memory: JIT code, a heap.
    Anonymous,
    /// The file cannot be reached any more, or not with our rights; the text says how it failed.
    Unopened(Box<str>),
    /// The file at the path is not the one that is mapped.
    Replaced,
    /// The file is no ELF image that can be read.
    NotElf(Box<str>),
    /// No segment of the image covers the mapped part of the file.
    NoSegment,
}

impl std::fmt::Display for ImageAbsence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "memory without a file",
            Self::Unopened(why) | Self::NotElf(why) => why,
            Self::Replaced => "another file lies at the path by now",
            Self::NoSegment => "no segment of the file covers what is mapped of it",
        })
    }
}

/// What a mapping is, apart from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MappingKind {
    /// A file.
    File,
    /// The vdso, whose image is read from memory.
    Vdso,
    /// The vsyscall page.
    Vsyscall,
    /// Anonymous or otherwise nameless executable memory.
    Anonymous,
}

/// One executable mapping.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Its identity in this session.
    pub id: MappingId,
    /// First address.
    pub start: Avma,
    /// First address after it.
    pub end: Avma,
    /// Offset of `start` in the file.
    pub offset: FileOffset,
    /// The path as the target sees it, without the kernel's ` (deleted)`; or a name such as
    /// `[vdso]` or `//anon`.
    pub name: Arc<str>,
    /// The file's identity, if it has one.
    pub file: Option<FileId>,
    /// What it is.
    pub kind: MappingKind,
    /// The image and its bias, or why there is none.
    pub image: Result<(Arc<ElfImage>, Bias), ImageAbsence>,
}

impl Mapping {
    /// Whether the address lies in it.
    #[must_use]
    pub fn contains(&self, addr: Avma) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The image with the address that it states for `addr`.
    #[must_use]
    pub fn image_at(&self, addr: Avma) -> Option<(&Arc<ElfImage>, Svma)> {
        let (image, bias) = self.image.as_ref().ok()?;
        Some((image, bias.to_svma(addr)))
    }
}

/// A mapping before it has an identity: see [`AddressSpace::insert`].
#[derive(Debug, Clone)]
pub struct NewMapping {
    /// First address.
    pub start: Avma,
    /// First address after it.
    pub end: Avma,
    /// Offset of `start` in the file.
    pub offset: FileOffset,
    /// As [`Mapping::name`].
    pub name: Arc<str>,
    /// As [`Mapping::file`].
    pub file: Option<FileId>,
    /// As [`Mapping::kind`].
    pub kind: MappingKind,
    /// As [`Mapping::image`].
    pub image: Result<(Arc<ElfImage>, Bias), ImageAbsence>,
}

/// The executable mappings of a process now. Ranges never overlap: a new mapping cuts away what
/// it covers of older ones, as mmap(MAP_FIXED) does.
#[derive(Debug, Clone, Default)]
pub struct AddressSpace {
    by_start: BTreeMap<u64, Arc<Mapping>>,
    generation: u64,
}

impl AddressSpace {
    /// Adds a mapping under the identity that the caller drew for it. An empty range is ignored.
    pub fn insert(&mut self, id: MappingId, new: NewMapping) {
        if new.start >= new.end {
            return;
        }
        self.remove(new.start, new.end);
        let NewMapping { start, end, offset, name, file, kind, image } = new;
        let mapping = Mapping { id, start, end, offset, name, file, kind, image };
        self.by_start.insert(start.0, Arc::new(mapping));
    }

    /// Cuts a range out. What is left of a mapping keeps its identity and its image.
    pub fn remove(&mut self, start: Avma, end: Avma) {
        self.generation += 1;
        let first = self.by_start.range(..=start.0).next_back().map_or(start.0, |(s, _)| *s);
        let hit: Vec<u64> = self
            .by_start
            .range(first..end.0)
            .filter(|(_, m)| m.end > start)
            .map(|(s, _)| *s)
            .collect();
        for key in hit {
            let Some(old) = self.by_start.remove(&key) else { continue };
            if old.start < start {
                let left = Mapping { end: start, ..(*old).clone() };
                self.by_start.insert(left.start.0, Arc::new(left));
            }
            if old.end > end {
                let offset = FileOffset(old.offset.0.wrapping_add(end.0 - old.start.0));
                let right = Mapping { start: end, offset, ..(*old).clone() };
                self.by_start.insert(right.start.0, Arc::new(right));
            }
        }
    }

    /// Forgets everything, as exec does.
    pub fn clear(&mut self) {
        self.generation += 1;
        self.by_start.clear();
    }

    /// The mapping at an address.
    #[must_use]
    pub fn find(&self, addr: Avma) -> Option<&Arc<Mapping>> {
        let (_, m) = self.by_start.range(..=addr.0).next_back()?;
        m.contains(addr).then_some(m)
    }

    /// All mappings by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.by_start.values()
    }

    /// Grows with each change, so that a cache of look-ups knows when it is out of date.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anonymous(start: u64, end: u64) -> NewMapping {
        NewMapping {
            start: Avma(start),
            end: Avma(end),
            offset: FileOffset(start - 0x1000),
            name: "//anon".into(),
            file: None,
            kind: MappingKind::Anonymous,
            image: Err(ImageAbsence::Anonymous),
        }
    }

    #[test]
    fn a_mapping_over_the_middle_of_another_leaves_both_ends_in_place() {
        let mut space = AddressSpace::default();
        space.insert(MappingId(1), anonymous(0x1000, 0x9000));
        space.insert(MappingId(2), anonymous(0x3000, 0x4000));
        let at = |a| space.find(Avma(a)).map(|m| (m.id.0, m.offset.0));
        assert_eq!(at(0xfff), None);
        assert_eq!(at(0x2fff), Some((1, 0)));
        assert_eq!(at(0x3000), Some((2, 0x2000)));
        assert_eq!(at(0x4000), Some((1, 0x3000)), "the right part's offset moves with its start");
        assert_eq!(at(0x9000), None);
    }

    #[test]
    fn removal_touches_only_what_overlaps() {
        let mut space = AddressSpace::default();
        space.insert(MappingId(1), anonymous(0x1000, 0x2000));
        space.insert(MappingId(2), anonymous(0x2000, 0x3000));
        space.insert(MappingId(3), anonymous(0x5000, 0x6000));
        space.remove(Avma(0x2000), Avma(0x5000));
        assert_eq!(space.iter().map(|m| m.id.0).collect::<Vec<_>>(), [1, 3]);
    }
}

//! Keeps the executable mappings of a process.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Avma, Bias, ElfImage, FileOffset, Svma};

/// Identifies a mapping during a recording. Ids are never reused, so that (mapping, address) stays
/// valid after another file was mapped at the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId(pub u32);

/// The identity of a mapped file, as in `/proc/PID/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
}

/// Why a mapping has no image. These causes are expected, not failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageAbsence {
    /// Anonymous memory: JIT code, a heap.
    Anonymous,
    /// The file cannot be opened: it is gone, or the profiler lacks the permission. The text says
    /// why.
    Unopened(Box<str>),
    /// The file at the path is not the mapped one.
    Replaced,
    /// The file is not a usable ELF image. The text says why.
    NotElf(Box<str>),
    /// The mapped part of the file is in no segment of the image.
    NoSegment,
}

impl std::fmt::Display for ImageAbsence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "memory without a file",
            Self::Unopened(why) | Self::NotElf(why) => why,
            Self::Replaced => "the file was replaced by another one",
            Self::NoSegment => "the mapped part of the file is in no segment",
        })
    }
}

/// The kind of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MappingKind {
    /// A file.
    File,
    /// The vdso, whose image is read from the process's memory.
    Vdso,
    /// The vsyscall page.
    Vsyscall,
    /// Executable memory without a file: JIT code.
    Anonymous,
}

/// An executable mapping.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Its identity.
    pub id: MappingId,
    /// First address.
    pub start: Avma,
    /// The address after its end.
    pub end: Avma,
    /// Offset of `start` in the file.
    pub offset: FileOffset,
    /// The path as the target sees it, without the kernel's ` (deleted)`; or a name such as
    /// `[vdso]` or `//anon`.
    pub name: Arc<str>,
    /// The identity of the file, if it is one.
    pub file: Option<FileId>,
    /// The kind of mapping.
    pub kind: MappingKind,
    /// The image and its bias in the process, or why there is none.
    pub image: Result<(Arc<ElfImage>, Bias), ImageAbsence>,
}

impl Mapping {
    /// Whether the mapping contains the address.
    #[must_use]
    pub fn contains(&self, addr: Avma) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The image, and the address in it of the process's address `addr`.
    #[must_use]
    pub fn image_at(&self, addr: Avma) -> Option<(&Arc<ElfImage>, Svma)> {
        let (image, bias) = self.image.as_ref().ok()?;
        Some((image, bias.to_svma(addr)))
    }
}

/// A mapping without an identity: see [`AddressSpace::insert`].
#[derive(Debug, Clone)]
pub struct NewMapping {
    /// First address.
    pub start: Avma,
    /// The address after its end.
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

/// The executable mappings of a process. Ranges never overlap: a new mapping replaces the parts of
/// older ones that it covers, as mmap(MAP_FIXED) does.
#[derive(Debug, Clone, Default)]
pub struct AddressSpace {
    by_start: BTreeMap<u64, Arc<Mapping>>,
    generation: u64,
}

impl AddressSpace {
    /// Adds a mapping with an identity that the caller has not used before. An empty range is
    /// ignored.
    pub fn insert(&mut self, id: MappingId, new: NewMapping) {
        if new.start >= new.end {
            return;
        }
        self.remove(new.start, new.end);
        let NewMapping { start, end, offset, name, file, kind, image } = new;
        let mapping = Mapping { id, start, end, offset, name, file, kind, image };
        self.by_start.insert(start.0, Arc::new(mapping));
    }

    /// Removes a range. What remains of a mapping keeps its identity and its image.
    pub fn remove(&mut self, start: Avma, end: Avma) {
        self.generation = self.generation.wrapping_add(1);
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
                let offset = FileOffset(old.offset.0.wrapping_add(end.0.wrapping_sub(old.start.0)));
                let right = Mapping { start: end, offset, ..(*old).clone() };
                self.by_start.insert(right.start.0, Arc::new(right));
            }
        }
    }

    /// Removes all mappings, as exec does.
    pub fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.by_start.clear();
    }

    /// The mapping at an address.
    #[must_use]
    pub fn find(&self, addr: Avma) -> Option<&Arc<Mapping>> {
        let (_, m) = self.by_start.range(..=addr.0).next_back()?;
        m.contains(addr).then_some(m)
    }

    /// All mappings in the order of addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.by_start.values()
    }

    /// A number that increases with each change, by which caches of look-ups know when they are
    /// stale.
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
    fn a_mapping_over_the_middle_of_another_leaves_both_ends() {
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
    fn removal_only_affects_what_overlaps() {
        let mut space = AddressSpace::default();
        space.insert(MappingId(1), anonymous(0x1000, 0x2000));
        space.insert(MappingId(2), anonymous(0x2000, 0x3000));
        space.insert(MappingId(3), anonymous(0x5000, 0x6000));
        space.remove(Avma(0x2000), Avma(0x5000));
        assert_eq!(space.iter().map(|m| m.id.0).collect::<Vec<_>>(), [1, 3]);
    }
}

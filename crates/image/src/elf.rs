//! Parses an ELF file: its headers once, its sections as borrowed bytes.
//!
//! The file belongs to the target and may be hostile. All ranges are checked against its real
//! length before use, and the number of headers has a limit.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use object::Endianness;
use object::elf::{
    self, FileHeader64, PF_W, PF_X, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, SHF_COMPRESSED,
    SHT_NOBITS, SHT_NOTE, SectionType,
};
use object::read::elf::{FileHeader, Note, NoteIterator, ProgramHeader, SectionHeader};

use crate::budget::Share;
use crate::{Avma, Bias, DecompressError, DecompressionBudget, FileOffset, Svma};

/// Limit of sections; no linker writes as many for an executable. Further ones are ignored.
const MAX_SECTIONS: usize = 65_536;
/// Limit of segments: `e_phnum` has 16 bits.
const MAX_SEGMENTS: usize = 65_535;
/// A longer build ID is not one, in bytes.
const MAX_BUILD_ID: usize = 64;

/// Why a file is not a usable ELF image.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file could not be mapped.
    #[error("cannot map the file: {0}")]
    Map(#[from] std::io::Error),
    /// The headers are not those of a 64-bit ELF file.
    #[error("not a usable ELF file: {0}")]
    Parse(#[from] object::Error),
    /// Big-endian machines are not supported.
    #[error("big-endian ELF file")]
    BigEndian,
    /// The machine is not supported; the number is `e_machine`.
    #[error("ELF file for an unsupported machine (e_machine {0})")]
    Machine(u16),
}

/// The instruction set of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// AMD64.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// The architecture for which this program was built, which is that of its targets.
    #[must_use]
    pub const fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }
}

/// The kind of an ELF file (`e_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfKind {
    /// `ET_EXEC`: a position-dependent executable.
    Executable,
    /// `ET_DYN`: a shared library or a position-independent executable.
    Dynamic,
    /// `ET_REL`, `ET_CORE` and the rest.
    Other,
}

/// The bytes of an image: a mapped file, or owned bytes (the vdso, MiniDebugInfo, a test).
#[derive(Debug)]
pub enum ImageBytes {
    /// A private read-only mapping of the file.
    Mapped(Mmap),
    /// Owned bytes.
    Owned(Vec<u8>),
}

impl ImageBytes {
    /// Maps a file.
    ///
    /// # Errors
    /// The error of `mmap` (an empty file cannot be mapped).
    #[allow(unsafe_code)]
    pub fn map(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is private and only ever read as bytes, each range checked. A file
        // that shrinks underneath raises SIGBUS on access; the binary installs a handler that
        // gives zeros instead (see host::sigbus), so that a hostile target cannot kill us.
        Ok(Self::Mapped(unsafe { Mmap::map(file)? }))
    }
}

impl ImageBytes {
    /// Releases the resident pages of a mapped file, which otherwise count as memory of this
    /// process. Later reads load them from the file again.
    #[allow(unsafe_code)]
    pub fn release(&self) {
        if let Self::Mapped(map) = self {
            // SAFETY: the mapping is of a file and never written to, so that dropped pages come
            // back with the file's bytes; nobody relies on two reads giving the same.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // If it fails, the pages stay resident until the kernel needs the memory.
            let _ = advised;
        }
    }
}

impl Deref for ImageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(m) => m,
            Self::Owned(v) => v,
        }
    }
}

/// A segment that is loaded into memory (`PT_LOAD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `p_vaddr`.
    pub svma: Svma,
    /// `p_memsz`.
    pub memory_size: u64,
    /// `p_offset`.
    pub offset: FileOffset,
    /// `p_filesz`.
    pub file_size: u64,
    /// Whether `PF_X` is set.
    pub executable: bool,
    /// Whether `PF_W` is set.
    pub writable: bool,
}

/// A section, with its bytes as they are in the file.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// `sh_addr`; 0 if the section is not loaded.
    pub svma: Svma,
    /// The bytes, which are compressed if `compressed`: see [`crate::SectionReader`]. Empty for
    /// `SHT_NOBITS`.
    pub data: &'a [u8],
    /// `sh_size`: the size in bytes, also of a `SHT_NOBITS` section.
    pub size: u64,
    /// `SHF_COMPRESSED`: `data` begins with an `Elf64_Chdr`.
    pub compressed: bool,
}

#[derive(Debug)]
struct SectionEntry {
    name: Box<str>,
    kind: SectionType,
    svma: u64,
    offset: u64,
    size: u64,
    compressed: bool,
}

/// A parsed ELF file together with its bytes.
#[derive(Debug)]
pub struct ElfImage {
    bytes: ImageBytes,
    arch: Arch,
    kind: ElfKind,
    entry: Svma,
    segments: Vec<Segment>,
    sections: Vec<SectionEntry>,
    build_id: Option<Box<[u8]>>,
    eh_frame_hdr: Option<(Svma, u64, u64)>,
    dynamic: Option<(Svma, u64, u64)>,
    decompression: OnceLock<Arc<Share>>,
}

impl ElfImage {
    /// Maps and parses a file.
    ///
    /// # Errors
    /// [`ElfError`] if the file cannot be mapped, or is not a 64-bit little-endian ELF file of a
    /// supported machine.
    pub fn open(file: &File) -> Result<Self, ElfError> {
        let image = ImageBytes::map(file).map_err(ElfError::from).and_then(Self::parse);
        image.inspect_err(|why| tracing::debug!(%why, ?file, "cannot use an image"))
    }

    /// Parses the headers of an image in memory.
    ///
    /// # Errors
    /// As [`ElfImage::open`].
    pub fn parse(bytes: ImageBytes) -> Result<Self, ElfError> {
        let data: &[u8] = &bytes;
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        if endian != Endianness::Little {
            return Err(ElfError::BigEndian);
        }
        let arch = match header.e_machine(endian) {
            elf::EM_X86_64 => Arch::X86_64,
            elf::EM_AARCH64 => Arch::Aarch64,
            other => return Err(ElfError::Machine(other.0)),
        };
        let kind = match header.e_type(endian) {
            elf::ET_EXEC => ElfKind::Executable,
            elf::ET_DYN => ElfKind::Dynamic,
            _ => ElfKind::Other,
        };
        let entry = Svma(header.e_entry(endian));
        let mut image = Self {
            arch,
            kind,
            entry,
            segments: Vec::new(),
            sections: read_sections(data),
            build_id: None,
            eh_frame_hdr: None,
            dynamic: None,
            decompression: OnceLock::new(),
            bytes: ImageBytes::Owned(Vec::new()),
        };
        image.read_program_headers(data);
        if image.build_id.is_none() {
            image.build_id = build_id_from_sections(data, &image.sections);
        }
        image.bytes = bytes;
        tracing::debug!(
            build_id = image.build_id_hex(),
            ?arch,
            ?kind,
            bytes = image.bytes.len(),
            segments = image.segments.len(),
            sections = image.sections.len(),
            "opened an image"
        );
        Ok(image)
    }

    /// Makes the image's compressed sections count against a budget that other images share. Without
    /// this, it has one of its own. The first call counts, unless a section was decompressed before.
    pub fn share_budget(&self, budget: &Arc<DecompressionBudget>) {
        let _ = self.decompression.set(Arc::new(Share::of(budget)));
    }

    /// The same for a file that belongs to another image, such as its debug file: what
    /// [`Self::over_budget`] returns, it returns for both.
    pub fn share_budget_of(&self, other: &Self) {
        let _ = self.decompression.set(Arc::clone(other.share()));
    }

    /// Whether compressed sections of this image or of its debug files were left out because all
    /// images together exceeded the budget.
    #[must_use]
    pub fn over_budget(&self) -> bool {
        self.decompression.get().is_some_and(|share| share.exceeded())
    }

    /// Reads a decoder of `compressed` bytes of this image to its end, within the budget, and at most
    /// `limit` bytes.
    ///
    /// # Errors
    /// The stream is damaged, or longer than that.
    pub fn decompress(
        &self,
        compressed: usize,
        decoder: impl Read,
        limit: u64,
    ) -> Result<Vec<u8>, DecompressError> {
        self.share().read(compressed, decoder, limit)
    }

    fn share(&self) -> &Arc<Share> {
        self.decompression.get_or_init(Arc::default)
    }

    fn read_program_headers(&mut self, data: &[u8]) {
        // Not an error if they are damaged: sections may still be usable, as in debug files, whose
        // program headers may point past their end.
        let Ok(header) = FileHeader64::<Endianness>::parse(data) else { return };
        let endian = Endianness::Little;
        let Ok(program_headers) = header.program_headers(endian, data) else { return };
        for ph in program_headers.iter().take(MAX_SEGMENTS) {
            let (offset, file_size) = (ph.p_offset(endian), ph.p_filesz(endian));
            let svma = Svma(ph.p_vaddr(endian));
            match ph.p_type(endian) {
                PT_LOAD => self.segments.push(Segment {
                    svma,
                    memory_size: ph.p_memsz(endian),
                    offset: FileOffset(offset),
                    file_size,
                    executable: ph.p_flags(endian).contains(PF_X),
                    writable: ph.p_flags(endian).contains(PF_W),
                }),
                PT_GNU_EH_FRAME => self.eh_frame_hdr = Some((svma, offset, file_size)),
                PT_DYNAMIC => self.dynamic = Some((svma, offset, file_size)),
                PT_NOTE if self.build_id.is_none() => {
                    self.build_id = slice(data, offset, file_size)
                        .and_then(|notes| build_id_in(notes, ph.p_align(endian)));
                }
                _ => {}
            }
        }
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// See [`ImageBytes::release`].
    pub fn release_pages(&self) {
        self.bytes.release();
    }

    /// The instruction set.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The kind of file.
    #[must_use]
    pub fn kind(&self) -> ElfKind {
        self.kind
    }

    /// `e_entry`: the address of the entry point.
    #[must_use]
    pub fn entry(&self) -> Svma {
        self.entry
    }

    /// The `PT_LOAD` segments in file order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The GNU build ID, as raw bytes.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// The GNU build ID in lower-case hex; empty if there is none.
    #[must_use]
    pub fn build_id_hex(&self) -> String {
        use std::fmt::Write as _;
        self.build_id().unwrap_or_default().iter().fold(String::new(), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
    }

    /// The first section of that name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<Section<'_>> {
        self.sections.iter().find(|s| &*s.name == name).and_then(|s| self.to_section(s))
    }

    /// All sections with their names, in file order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, Section<'_>)> {
        self.sections.iter().filter_map(|s| Some((&*s.name, self.to_section(s)?)))
    }

    fn to_section(&self, s: &SectionEntry) -> Option<Section<'_>> {
        let data =
            if s.kind == SHT_NOBITS { &[][..] } else { slice(self.bytes(), s.offset, s.size)? };
        Some(Section { svma: Svma(s.svma), data, size: s.size, compressed: s.compressed })
    }

    /// `.eh_frame_hdr` according to the program header, which remains if section headers are
    /// stripped.
    #[must_use]
    pub fn eh_frame_hdr(&self) -> Option<Section<'_>> {
        self.program_section(self.eh_frame_hdr)
    }

    /// `.dynamic` according to the program header.
    #[must_use]
    pub fn dynamic(&self) -> Option<Section<'_>> {
        self.program_section(self.dynamic)
    }

    fn program_section(&self, at: Option<(Svma, u64, u64)>) -> Option<Section<'_>> {
        let (svma, offset, size) = at?;
        let data = slice(self.bytes(), offset, size)?;
        Some(Section { svma, data, size, compressed: false })
    }

    /// The bytes of the file from an address to the end of its segment.
    #[must_use]
    pub fn bytes_at(&self, svma: Svma) -> Option<&[u8]> {
        let (s, skip) = self.segments.iter().find_map(|s| {
            let skip = svma.0.checked_sub(s.svma.0)?;
            (skip < s.file_size).then_some((s, skip))
        })?;
        slice(self.bytes(), s.offset.0.checked_add(skip)?, s.file_size.saturating_sub(skip))
    }

    /// The bias of this file in a process that maps `len` bytes from `offset` on at `start`.
    ///
    /// The bias follows from the segment that holds the file offset. Linkers may put several
    /// segments into one page of the file, so that an offset belongs to two of them. The executable
    /// one takes precedence, since callers ask about executable mappings.
    ///
    /// ```text
    ///   maps row:   start ─┐            offset ─┐
    ///   segment:    svma = offset − p_offset + p_vaddr,   bias = start − svma
    /// ```
    #[must_use]
    pub fn bias_of_mapping(&self, start: Avma, offset: FileOffset, len: u64) -> Option<Bias> {
        let end = offset.0.checked_add(len)?;
        let touches = |s: &&Segment| {
            let first = s.offset.0 & !0xfff;
            let last = s.offset.0.saturating_add(s.file_size);
            offset.0 < last && first < end
        };
        let segment =
            self.segments.iter().filter(touches).max_by_key(|s| (s.executable, s.file_size))?;
        let svma = offset.0.wrapping_sub(segment.offset.0).wrapping_add(segment.svma.0);
        Some(Bias::between(Svma(svma), start))
    }
}

fn slice(data: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    data.get(start..end)
}

fn read_sections(data: &[u8]) -> Vec<SectionEntry> {
    let endian = Endianness::Little;
    let Ok(header) = FileHeader64::<Endianness>::parse(data) else { return Vec::new() };
    let Ok(table) = header.sections(endian, data) else { return Vec::new() };
    let entry = |sh: &elf::SectionHeader64<Endianness>| {
        let name = table.section_name(endian, sh).unwrap_or_default();
        SectionEntry {
            name: String::from_utf8_lossy(name.get(..256).unwrap_or(name)).into(),
            kind: sh.sh_type(endian),
            svma: sh.sh_addr(endian),
            offset: sh.sh_offset(endian),
            size: sh.sh_size(endian),
            compressed: sh.sh_flags(endian).contains(SHF_COMPRESSED),
        }
    };
    table.iter().take(MAX_SECTIONS).map(entry).collect()
}

fn build_id_from_sections(data: &[u8], sections: &[SectionEntry]) -> Option<Box<[u8]>> {
    sections
        .iter()
        .filter(|s| s.kind == SHT_NOTE)
        .filter_map(|s| slice(data, s.offset, s.size))
        .find_map(|notes| build_id_in(notes, 4))
}

/// Finds `NT_GNU_BUILD_ID` in a run of notes.
fn build_id_in(notes: &[u8], align: u64) -> Option<Box<[u8]>> {
    // Notes are aligned to 4 or 8 bytes; binutils takes any other number as 4.
    let align = if align == 8 { 8 } else { 4 };
    let endian = Endianness::Little;
    let notes = NoteIterator::<FileHeader64<Endianness>>::new(endian, align, notes).ok()?;
    let is_build_id = |note: &Note<'_, FileHeader64<Endianness>>| {
        note.n_type(endian) == elf::NT_GNU_BUILD_ID
            && note.name_bytes() == b"GNU\0"
            // 20 bytes by SHA-1, 16 by MD5 or UUID; --build-id=0x… may be longer.
            && (1..=MAX_BUILD_ID).contains(&note.desc().len())
    };
    notes.map_while(Result::ok).find(is_build_id).map(|note| note.desc().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u32, name: &[u8], desc: &[u8], align: usize) -> Vec<u8> {
        let sizes = [name.len() as u32, desc.len() as u32, kind];
        let mut bytes: Vec<u8> = sizes.iter().flat_map(|n| n.to_le_bytes()).collect();
        for part in [name, desc] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(align), 0);
        }
        bytes
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        for align in [4, 8] {
            let property = note(elf::NT_GNU_PROPERTY_TYPE_0.0, b"GNU\0", &[0; 12], align);
            let go = note(4, b"Go\0\0", b"go's own build id", align);
            let other = note(elf::NT_GNU_BUILD_ID.0, b"XYZ\0", &[1; 20], align);
            let id = note(elf::NT_GNU_BUILD_ID.0, b"GNU\0", &[7; 20], align);
            let notes = [&property[..], &go, &other, &id].concat();
            assert_eq!(build_id_in(&notes, align as u64).as_deref(), Some(&[7; 20][..]));
            let without_padding = &notes[..notes.len() - (align - 4)];
            assert!(build_id_in(without_padding, align as u64).is_some());
        }
        let id = note(elf::NT_GNU_BUILD_ID.0, b"GNU\0", &[7; 20], 4);
        for align in [0, 1, 4, 16, 4096, u64::MAX] {
            assert!(build_id_in(&id, align).is_some(), "alignment {align}");
        }
        let unaligned = [&[0][..], &id].concat();
        assert!(build_id_in(&unaligned[1..], 4).is_some());
    }

    #[test]
    fn damaged_notes_end_the_search() {
        let id = note(elf::NT_GNU_BUILD_ID.0, b"GNU\0", &[7; 20], 4);
        for cut in 0..id.len() {
            assert_eq!(build_id_in(&id[..cut], 4), None, "cut at {cut}");
        }
        for field in [0, 4] {
            let mut broken = id.clone();
            broken[field..field + 4].fill(0xff);
            assert_eq!(build_id_in(&[&broken[..], &id].concat(), 4), None);
            assert_eq!(build_id_in(&[&broken[..], &id].concat(), 8), None);
        }
        for length in [0, MAX_BUILD_ID + 1] {
            let odd = note(elf::NT_GNU_BUILD_ID.0, b"GNU\0", &vec![7; length], 4);
            assert_eq!(build_id_in(&odd, 4), None, "{length} bytes");
        }
        assert_eq!(build_id_in(&[0; 4096], 4), None);
    }
}

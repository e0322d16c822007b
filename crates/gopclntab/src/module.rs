//! Finds the line table and `runtime.firstmoduledata` in a file.

use image::{Arch, ElfImage, Svma};

use crate::buildinfo::GoVersion;
use crate::header::{Header, u64_at};

/// Sections of the table: Go's own linker, the same with `-buildmode=pie`.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Sections that an external linker may merge the table into (PIEs of Go 1.21).
const MERGED: [&str; 3] = [".data.rel.ro", ".rodata", ".data.rel.ro.local"];
/// Sections of `runtime.firstmoduledata`: Go 1.26 and later, older, merged by an external linker.
const MODULE_SECTIONS: [&str; 5] =
    [".go.module", ".noptrdata", ".data", ".data.rel.ro", ".data.rel.ro.go.module"];
/// In bytes; more than `sizeof(runtime.moduledata)` of any version.
const MODULE_SIZE: u64 = 640;
/// Relocations that are examined, because a hostile file may have billions.
const MAX_RELOCATIONS: usize = 16 << 20;

/// Byte offsets in `runtime.moduledata` (Go's runtime/symtab.go), unchanged since 1.18.
pub(crate) const TEXT: u64 = 176;
pub(crate) const ETEXT: u64 = 184;

/// The part of a `runtime.moduledata` that is needed to read the line table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleData {
    /// The address of `runtime.firstmoduledata`.
    pub address: Svma,
    /// `text`: the base of function offsets.
    pub text: Svma,
    /// `etext`: the end of the Go code.
    pub text_end: Svma,
    /// `gofunc`: the base of FUNCDATA offsets. `None` for a Go version that is not known.
    pub gofunc: Option<Svma>,
}

/// The byte offset of `moduledata.gofunc`, which differs between Go versions. `None` for a version
/// that is not known.
#[must_use]
pub fn gofunc_offset(version: &GoVersion) -> Option<u64> {
    match version.minor {
        18 | 19 => Some(304),
        20..=26 => Some(320),
        27 => Some(344),
        _ => None,
    }
}

/// The address and bytes of the table in the file.
pub(crate) fn find_table(image: &ElfImage) -> Option<(Svma, &[u8])> {
    let named = SECTIONS.iter().find_map(|name| image.section(name)).filter(|s| !s.compressed);
    if let Some(s) = named.filter(|s| Header::parse(s.data).is_ok()) {
        return Some((s.svma, s.data));
    }
    MERGED.iter().filter_map(|name| image.section(name)).find_map(|s| {
        let at = scan(s.data)?;
        Some((s.svma.checked_add(at as u64)?, s.data.get(at..)?))
    })
}

/// Searches for a valid header. The linker aligns the table to 32 bytes.
fn scan(data: &[u8]) -> Option<usize> {
    (0..data.len()).step_by(8).find(|at| {
        // The three magic numbers differ only in their lowest byte.
        let d = &data[*at..];
        d.len() > 8 && d[1..4] == [0xff; 3] && Header::parse(d).is_ok()
    })
}

/// Finds the `moduledata` of the table at `table`.
pub(crate) fn find_module(
    image: &ElfImage,
    table: Svma,
    header: &Header,
    version: Option<&GoVersion>,
) -> Option<ModuleData> {
    let names = table.checked_add(header.funcname as u64)?;
    let (address, words) = match in_bytes(image, table, names) {
        Some(address) => (address, Vec::new()),
        None => in_relocations(image, table, names)?,
    };
    // A linker that emits relocations leaves the words in the file zero.
    let word = |offset: u64| {
        let at = address.0.checked_add(offset)?;
        let relocated = words.iter().find(|(place, _)| *place == at).map(|(_, v)| *v);
        relocated.or_else(|| u64_at(image.bytes_at(Svma(at))?, 0))
    };
    let gofunc = version.and_then(gofunc_offset).and_then(word).filter(|a| *a != 0);
    let (text, text_end) = (word(TEXT)?, word(ETEXT)?);
    (text < text_end).then_some(ModuleData {
        address,
        text: Svma(text),
        text_end: Svma(text_end),
        gofunc: gofunc.map(Svma),
    })
}

/// Searches the data: a `moduledata` begins with the addresses of the header and the name table.
fn in_bytes(image: &ElfImage, table: Svma, names: Svma) -> Option<Svma> {
    let mut needle = [0; 16];
    needle[..8].copy_from_slice(&table.0.to_le_bytes());
    needle[8..].copy_from_slice(&names.0.to_le_bytes());
    MODULE_SECTIONS.iter().filter_map(|name| image.section(name)).find_map(|s| {
        let skip = (8 - s.svma.0 % 8) % 8;
        let words = s.data.get(usize::try_from(skip).ok()?..)?;
        let at = (0..words.len()).step_by(8).find(|at| words[*at..].starts_with(&needle))?;
        s.svma.checked_add(skip + at as u64)
    })
}

/// Searches the relocations that will write those two words.
fn in_relocations(image: &ElfImage, table: Svma, names: Svma) -> Option<(Svma, Vec<(u64, u64)>)> {
    let all = || {
        image
            .sections()
            .filter(|(name, _)| name.starts_with(".rela"))
            .flat_map(|(_, s)| s.data.chunks_exact(24))
            .take(MAX_RELOCATIONS)
    };
    let kind = match image.arch() {
        Arch::X86_64 => 8,
        Arch::Aarch64 => 1027,
    };
    let relative = || {
        all().filter_map(|r| {
            let (place, info, addend) = (u64_at(r, 0)?, u64_at(r, 8)?, u64_at(r, 16)?);
            (info == kind).then_some((place, addend))
        })
    };
    let heads: Vec<u64> =
        relative().filter(|(_, v)| *v == table.0).map(|(p, _)| p).take(64).collect();
    let address = heads.into_iter().find(|head| {
        relative().any(|(place, v)| Some(place) == head.checked_add(8) && v == names.0)
    })?;
    let end = address.checked_add(MODULE_SIZE)?;
    let words = relative().filter(|(place, _)| (address..end).contains(place)).take(256).collect();
    Some((Svma(address), words))
}

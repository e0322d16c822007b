//! Parses the header of the line table, which locates its parts.

use crate::PclntabError;

/// The format of the function records. The magic numbers are those of Go's
/// internal/abi/symtab.go (`Go116PCLnTabMagic` and its successors).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Go 1.16 and 1.17, magic `0xfffffffa`: functions have absolute addresses.
    Go116,
    /// Go 1.18 and 1.19, magic `0xfffffff0`: functions have offsets from the text.
    Go118,
    /// Go 1.20 and later, magic `0xfffffff1`: functions also have a start line.
    Go120,
}

impl Format {
    pub(crate) fn of_magic(magic: u32) -> Option<Self> {
        match magic {
            0xffff_fffa => Some(Self::Go116),
            0xffff_fff0 => Some(Self::Go118),
            0xffff_fff1 => Some(Self::Go120),
            _ => None,
        }
    }
}

/// A checked header: every offset lies inside the table. The layout is `runtime.pcHeader` in Go's
/// runtime/symtab.go:
///
/// ```text
///  0 magic u32   4 pad u16   6 minLC u8   7 ptrSize u8
///  8 nfunc   16 nfiles   24 textStart (1.18 to 1.25; an unused word from 1.26; none before 1.18)
/// 32 funcname   40 cu   48 file   56 pc   64 pcln      (24, 32, … before 1.18)
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub format: Format,
    pub min_lc: u8,
    pub function_count: usize,
    /// 0 if the table has none. An external linker leaves it unrelocated in the file.
    pub text_start: u64,
    pub funcname: usize,
    pub cu: usize,
    pub file: usize,
    pub pc: usize,
    pub pcln: usize,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, PclntabError> {
        let magic = u32_at(bytes, 0).ok_or(PclntabError::Truncated)?;
        let format = Format::of_magic(magic).ok_or(PclntabError::Magic(magic))?;
        let fixed = bytes.get(4..8).ok_or(PclntabError::Truncated)?;
        if fixed[0] != 0 || fixed[1] != 0 || !matches!(fixed[2], 1 | 4) || fixed[3] != 8 {
            return Err(PclntabError::Header(
                "unsupported padding, instruction size or pointer size",
            ));
        }
        let word = |i: usize| u64_at(bytes, 8 + 8 * i).ok_or(PclntabError::Truncated);
        let within = |v: u64| {
            usize::try_from(v)
                .ok()
                .filter(|v| *v < bytes.len())
                .ok_or(PclntabError::Header("an offset is past the end"))
        };
        let first = if format == Format::Go116 { 2 } else { 3 };
        let header = Self {
            format,
            min_lc: fixed[2],
            function_count: within(word(0)?)?,
            text_start: if first == 3 { word(2)? } else { 0 },
            funcname: within(word(first)?)?,
            cu: within(word(first + 1)?)?,
            file: within(word(first + 2)?)?,
            pc: within(word(first + 3)?)?,
            pcln: within(word(first + 4)?)?,
        };
        let sorted = header.funcname <= header.cu
            && header.cu <= header.file
            && header.file <= header.pc
            && header.pc <= header.pcln;
        let table = header.functab_entry_size().checked_mul(header.function_count);
        let end = table.and_then(|size| size.checked_add(header.pcln));
        if !sorted || header.function_count == 0 || end.is_none_or(|e| e > bytes.len()) {
            return Err(PclntabError::Header("the parts are out of order"));
        }
        Ok(header)
    }

    /// The size of a `runtime.functab` (entry, offset of the record), in bytes: two 64-bit words
    /// before Go 1.18, two 32-bit words since.
    pub(crate) fn functab_entry_size(&self) -> usize {
        if self.format == Format::Go116 { 16 } else { 8 }
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(b.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(b.try_into().ok()?))
}

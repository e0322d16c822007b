//! Iterates over the symbol tables of an ELF image.

use crate::{ElfImage, Svma};

/// Bounds the work for a hostile symbol table; no program has more symbols.
const MAX_SYMBOLS: usize = 16 << 20;
/// Size of an `Elf64_Sym`: name u32, info u8, other u8, section u16, value u64, size u64.
const ENTRY: usize = 24;

/// An entry of a symbol table.
#[derive(Debug, Clone, Copy)]
pub struct Symbol<'a> {
    /// The string table from the name on: a hostile name may have no end.
    text: &'a [u8],
    /// The address, or 0 for a symbol that the image only imports.
    pub value: Svma,
    /// Size of the function or variable in bytes, 0 if it is not known.
    pub size: u64,
}

impl Symbol<'_> {
    /// Whether this is its name.
    #[must_use]
    pub fn is_named(&self, name: &[u8]) -> bool {
        self.starts_with(name) && self.text.get(name.len()) == Some(&0)
    }

    /// Whether its name starts with `prefix`.
    #[must_use]
    pub fn starts_with(&self, prefix: &[u8]) -> bool {
        self.text.starts_with(prefix)
    }
}

impl ElfImage {
    /// The entries of the symbol table in section `table` with names in section `strings`, such as
    /// `.symtab` and `.strtab`. Empty if the image does not have these sections.
    pub fn symbols(&self, table: &str, strings: &str) -> impl Iterator<Item = Symbol<'_>> {
        let data = |name| self.section(name).map(|s| s.data).unwrap_or_default();
        let (table, strings) = (data(table), data(strings));
        table.chunks_exact(ENTRY).take(MAX_SYMBOLS).filter_map(|entry| {
            let name = u32::from_le_bytes(entry.get(..4)?.try_into().ok()?);
            let word = |at: usize| Some(u64::from_le_bytes(*entry.get(at..)?.first_chunk()?));
            let text = strings.get(usize::try_from(name).ok()?..)?;
            Some(Symbol { text, value: Svma(word(8)?), size: word(16)? })
        })
    }
}

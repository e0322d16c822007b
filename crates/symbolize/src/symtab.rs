//! Symbolizes a batch of addresses with an ELF symbol table, in one pass that neither sorts nor
//! copies it.
//!
//! Each symbol is looked up among the addresses (some thousands) rather than the other way round,
//! because tables have up to millions of symbols and are needed once.

use std::borrow::Cow;

use image::{Arch, ElfImage, Svma};
use object::Endianness;
use object::elf::{
    FileHeader64, SHF_EXECINSTR, SHN_LORESERVE, STB_GLOBAL, STB_WEAK, STT_FUNC, STT_GNU_IFUNC,
    STT_NOTYPE, SectionType, SymbolBind, SymbolType,
};
use object::read::elf::{FileHeader, SectionHeader};

use crate::extent::code_end;

/// `sizeof(Elf64_Sym)`.
const SYMBOL_SIZE: usize = 24;
/// Limit of pairs of a symbol and an address in it. Symbols of real files hardly overlap.
const MAX_OVERLAPS: u64 = 1 << 26;
/// Limit of the length of a name, in bytes; a symbol with a longer one has none.
const MAX_NAME: usize = 64 << 10;
/// Limit of what is compared of two names to choose between aliases, in bytes.
const MAX_COMPARED: usize = 512;

pub(crate) use object::elf::{SHT_DYNSYM, SHT_SYMTAB};

/// The symbol that covers an address.
#[derive(Debug, Clone)]
pub(crate) struct SymbolHit<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) start: u64,
}

/// The result of [`resolve`].
#[derive(Debug, Default)]
pub(crate) struct SymbolHits<'a> {
    /// One result for each address.
    pub(crate) hits: Vec<Option<SymbolHit<'a>>>,
    /// Whether there is such a table and it names functions.
    pub(crate) has_functions: bool,
    /// Whether the table was not read to the end, since its symbols overlap too often.
    pub(crate) cut: bool,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u64,
    size: u64,
    name: u32,
    binding: SymbolBind,
    /// The end of its section, which is an upper bound for a symbol without a size.
    section_end: u64,
}

/// The last symbol that starts at or before an address, of any size.
#[derive(Debug, Clone, Copy, Default)]
struct Nearest {
    start: u64,
    any: bool,
    sizeless: Option<Symbol>,
}

/// Looks up addresses of an image, which are sorted and distinct, in the table of one kind in
/// `file`: the image itself or its debug file. `preferred` holds for each address a name that is
/// preferred among aliases, such as the one in DWARF.
pub(crate) fn resolve<'a>(
    (image, file): (&'a ElfImage, &'a [u8]),
    table_kind: SectionType,
    sorted: &[u64],
    preferred: &[Option<&str>],
) -> SymbolHits<'a> {
    let mut none = SymbolHits { hits: vec![None; sorted.len()], ..SymbolHits::default() };
    let (Some(table), Some(&last)) = (Table::find(image, file, table_kind), sorted.last()) else {
        return none;
    };
    let mut pass = SymbolPass {
        table: &table,
        sorted,
        preferred,
        covering: vec![None; sorted.len()],
        nearest: vec![Nearest::default(); sorted.len()],
        overlaps: 0,
    };
    for raw in table.symbols.chunks_exact(SYMBOL_SIZE) {
        let Some(symbol) = table.function(raw) else { continue };
        none.has_functions = true;
        if symbol.start <= last && !pass.add(symbol) {
            none.cut = true;
            break;
        }
    }
    none.hits = pass.finish();
    none
}

struct Table<'a> {
    symbols: &'a [u8],
    strings: &'a [u8],
    /// The end of each section that holds code.
    code_ends: Vec<Option<u64>>,
    /// The image that holds the code; the table may be from its debug file.
    image: &'a ElfImage,
}

impl<'a> Table<'a> {
    fn find(image: &'a ElfImage, file: &'a [u8], kind: SectionType) -> Option<Self> {
        let e = Endianness::Little;
        let header = FileHeader64::<Endianness>::parse(file).ok()?;
        let sections = header.sections(e, file).ok()?;
        let (_, section) =
            sections.enumerate().find(|(_, s)| s.sh_type(e) == kind && s.sh_size(e) > 0)?;
        let symbols = section.data(e, file).ok()?;
        let strings = sections.section(section.link(e)).ok()?.data(e, file).ok()?;
        let code_ends = sections
            .iter()
            .map(|s| {
                let code = s.sh_flags(e).contains(SHF_EXECINSTR);
                code.then(|| s.sh_addr(e).saturating_add(s.sh_size(e)))
            })
            .collect();
        Some(Self { symbols, strings, code_ends, image })
    }

    /// Parses a row (gABI, `Elf64_Sym`), if it is a symbol of code.
    fn function(&self, raw: &[u8]) -> Option<Symbol> {
        let [n0, n1, n2, n3, info, _other, x0, x1, value @ .., _, _, _, _, _, _, _, _] = raw else {
            return None;
        };
        let kind = SymbolType(info & 0xf);
        let section = u16::from_le_bytes([*x0, *x1]);
        if !matches!(kind, STT_FUNC | STT_GNU_IFUNC | STT_NOTYPE)
            || section == 0
            || section >= SHN_LORESERVE
        {
            return None;
        }
        let section_end = (*self.code_ends.get(usize::from(section))?)?;
        let symbol = Symbol {
            start: u64::from_le_bytes(value.try_into().ok()?),
            size: u64::from_le_bytes(raw[16..].try_into().ok()?),
            name: u32::from_le_bytes([*n0, *n1, *n2, *n3]),
            binding: SymbolBind(info >> 4),
            section_end,
        };
        // Labels in hand-written code are functions; mapping symbols ($x, $d) and local labels are
        // not.
        let label = kind == STT_NOTYPE;
        if label && matches!(self.prefix(symbol, 2), [] | [b'$', ..] | [b'.', b'L', ..]) {
            return None;
        }
        Some(symbol)
    }

    /// The end of a function without a size: that of its code or of its section.
    fn end(&self, symbol: Symbol) -> u64 {
        let is_known = self.image.arch() == Arch::X86_64;
        let code = is_known.then(|| self.image.bytes_at(Svma(symbol.start))).flatten();
        let end = code.and_then(|code| code_end(code, symbol.start));
        end.unwrap_or(u64::MAX).min(symbol.section_end)
    }

    /// The name; empty if it has none or is longer than [`MAX_NAME`].
    fn name(&self, symbol: Symbol) -> &'a [u8] {
        let name = self.prefix(symbol, MAX_NAME);
        if name.len() == MAX_NAME { &[] } else { name }
    }

    /// The first `max` bytes of the name.
    fn prefix(&self, symbol: Symbol, max: usize) -> &'a [u8] {
        let rest = self.strings.get(symbol.name as usize..).unwrap_or_default();
        let rest = &rest[..rest.len().min(max)];
        let end = rest.iter().position(|&b| b == 0);
        &rest[..end.unwrap_or(rest.len())]
    }
}

struct SymbolPass<'t, 'a, 'b> {
    table: &'t Table<'a>,
    sorted: &'b [u64],
    preferred: &'b [Option<&'b str>],
    covering: Vec<Option<Symbol>>,
    /// For each address, among the symbols that start after the address before.
    nearest: Vec<Nearest>,
    overlaps: u64,
}

impl<'a> SymbolPass<'_, 'a, '_> {
    /// Takes in a symbol. Returns false if the limit of overlaps is exceeded.
    fn add(&mut self, symbol: Symbol) -> bool {
        let first = self.sorted.partition_point(|&a| a < symbol.start);
        let Some(near) = self.nearest.get(first).copied() else { return true };
        if !near.any || symbol.start > near.start {
            let sizeless = (symbol.size == 0).then_some(symbol);
            self.nearest[first] = Nearest { start: symbol.start, any: true, sizeless };
        } else if symbol.start == near.start && symbol.size == 0 {
            self.nearest[first].sizeless = match near.sizeless {
                Some(other) if !self.better(first, symbol, other) => Some(other),
                _ => Some(symbol),
            };
        }
        let end = symbol.start.saturating_add(symbol.size);
        for i in first..self.sorted.len() {
            if self.sorted[i] >= end {
                break;
            }
            self.overlaps += 1;
            let wins = match self.covering[i] {
                None => true,
                Some(old) if symbol.start == old.start => self.better(i, symbol, old),
                Some(old) => symbol.start > old.start,
            };
            if wins {
                self.covering[i] = Some(symbol);
            }
        }
        self.overlaps < MAX_OVERLAPS
    }

    /// Whether `a` is a better name than `b` for the address of that number.
    fn better(&self, address: usize, a: Symbol, b: Symbol) -> bool {
        let preferred = self.preferred.get(address).copied().flatten().map(str::as_bytes);
        let rank = |s: Symbol| {
            let name = self.table.prefix(s, MAX_COMPARED);
            let base = name.split(|&c| c == b'.').next();
            let underscores = name.iter().take_while(|&&c| c == b'_').count();
            (
                name.is_empty(),
                preferred.is_some_and(|p| name != p),
                preferred.is_some_and(|p| base != Some(p)),
                match s.binding {
                    STB_GLOBAL => 0,
                    STB_WEAK => 1,
                    _ => 2,
                },
                // `name@VERSION`: the alias without the version is preferred.
                name.contains(&b'@'),
                underscores,
                name.len(),
                name,
            )
        };
        rank(a) < rank(b)
    }

    fn finish(self) -> Vec<Option<SymbolHit<'a>>> {
        let (mut near, mut end) = (Nearest::default(), 0);
        let mut hits = Vec::with_capacity(self.sorted.len());
        for (i, &address) in self.sorted.iter().enumerate() {
            let here = self.nearest[i];
            if here.any && (!near.any || here.start >= near.start) {
                near = here;
                end = near.sizeless.map_or(0, |symbol| self.table.end(symbol));
            }
            // A symbol without a size ends at the next one.
            let open = near.sizeless.filter(|_| address < end);
            let name = self.covering[i].or(open).and_then(|s| {
                let name = self.table.name(s);
                let name = String::from_utf8_lossy(name);
                (!name.is_empty()).then_some(SymbolHit { name, start: s.start })
            });
            hits.push(name);
        }
        hits
    }
}

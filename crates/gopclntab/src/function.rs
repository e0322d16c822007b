//! Reads one function of the line table, and the pc-value tables that describe its code.

use std::borrow::Cow;

use image::Svma;

use crate::header::{u32_at, u64_at};
use crate::{Format, LineTable};

/// In bytes. Names of generic functions include their type arguments and may be long.
const MAX_NAME: usize = 64 << 10;
/// Steps of one pc-value table. A generated function of a million lines has a million.
const MAX_STEPS: usize = 4 << 20;

const FUNCDATA_INL_TREE: usize = 3;
const PCDATA_INL_TREE_INDEX: usize = 2;

/// Properties that the compiler recorded (`abi.FuncFlag` in Go's internal/abi/symtab.go).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionFlags(pub u8);

impl FunctionFlags {
    /// `FuncFlagTopFrame`: the outermost function of a stack.
    #[must_use]
    pub fn is_top_frame(self) -> bool {
        self.0 & 1 != 0
    }

    /// `FuncFlagSPWrite`: the function writes to SP in ways that pcsp does not describe.
    #[must_use]
    pub fn writes_sp(self) -> bool {
        self.0 & 2 != 0
    }

    /// `FuncFlagAsm`: written in assembly.
    #[must_use]
    pub fn is_assembly(self) -> bool {
        self.0 & 4 != 0
    }
}

/// A value of a pc-value table, and the code range that it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcValue {
    /// The value.
    pub value: i32,
    /// First address of the range.
    pub start: Svma,
    /// First address after the range.
    pub end: Svma,
}

/// Byte offsets in `runtime._func` (Go's runtime/runtime2.go).
struct RecordLayout {
    /// `nameoff`, followed by `args`, `deferreturn`, `pcsp`, `pcfile`, `pcln`, `npcdata` and
    /// `cuOffset`, 32 bits each.
    name: usize,
    start_line: Option<usize>,
    id: usize,
    arrays: usize,
}

impl RecordLayout {
    fn of(format: Format) -> Self {
        match format {
            Format::Go116 => Self { name: 8, start_line: None, id: 40, arrays: 44 },
            Format::Go118 => Self { name: 4, start_line: None, id: 36, arrays: 40 },
            Format::Go120 => Self { name: 4, start_line: Some(36), id: 40, arrays: 44 },
        }
    }
}

/// A function with its own code, as opposed to one that is only inlined.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    pub(crate) table: &'a LineTable,
    entry: Svma,
    end: Svma,
    /// Offset of its `runtime._func` in the table.
    record: usize,
}

impl<'a> Function<'a> {
    pub(crate) fn at(table: &'a LineTable, index: usize) -> Option<Self> {
        let (entry, end) = (table.entry(index)?, table.entry(index + 1)?);
        let header = &table.header;
        let at = header.pcln + index * header.functab_entry_size();
        let offset = match header.format {
            Format::Go116 => usize::try_from(u64_at(table.data(), at + 8)?).ok()?,
            _ => u32_at(table.data(), at + 4)? as usize,
        };
        let function = Self { table, entry, end, record: header.pcln.checked_add(offset)? };
        // The record repeats its entry, which reveals a wrong offset.
        let recorded = match header.format {
            Format::Go116 => Svma(u64_at(table.data(), function.record)?),
            _ => table.text.checked_add(u64::from(u32_at(table.data(), function.record)?))?,
        };
        (entry < end && recorded == entry).then_some(function)
    }

    fn field(&self, offset: usize) -> Option<u32> {
        u32_at(self.table.data(), self.record.checked_add(offset)?)
    }

    fn layout(&self) -> RecordLayout {
        RecordLayout::of(self.table.header.format)
    }

    fn id_byte(&self, i: usize) -> u8 {
        let at = self.record.saturating_add(self.layout().id + i);
        self.table.data().get(at).copied().unwrap_or(0)
    }

    /// The address of its first instruction.
    #[must_use]
    pub fn entry(&self) -> Svma {
        self.entry
    }

    /// The entry of the next function.
    #[must_use]
    pub fn end(&self) -> Svma {
        self.end
    }

    /// The full name, including type arguments: see [`crate::printed_name`].
    #[must_use]
    pub fn name(&self) -> Cow<'a, str> {
        let offset = self.field(self.layout().name).unwrap_or(0);
        self.table.name_at(offset)
    }

    pub(crate) fn has_name(&self, name: &str) -> bool {
        let offset = self.field(self.layout().name).unwrap_or(0) as usize;
        let names = self.table.data().get(self.table.header.funcname..).unwrap_or_default();
        let here = names.get(offset..).unwrap_or_default();
        here.starts_with(name.as_bytes()) && here.get(name.len()) == Some(&0)
    }

    /// The line of the `func` keyword. `None` before Go 1.20.
    #[must_use]
    pub fn start_line(&self) -> Option<u32> {
        self.field(self.layout().start_line?).filter(|l| *l != 0 && *l <= i32::MAX as u32)
    }

    /// `funcID`. Its values change between Go versions: see [`LineTable::special`].
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id_byte(0)
    }

    /// The compiler's flags. None are set before Go 1.17.
    #[must_use]
    pub fn flags(&self) -> FunctionFlags {
        FunctionFlags(self.id_byte(1))
    }

    /// The file and line of the instruction at `pc`.
    #[must_use]
    pub fn position(&self, pc: Svma) -> Option<(Cow<'a, str>, u32)> {
        let name = self.layout().name;
        let file = self.value(self.field(name + 16)?, pc)?.value;
        let line = self.value(self.field(name + 20)?, pc)?.value;
        let (file, line) = (usize::try_from(file).ok()?, u32::try_from(line).ok()?);
        let header = &self.table.header;
        let unit = (self.field(name + 28)? as usize).checked_add(file)?;
        let at = header.cu.checked_add(unit.checked_mul(4)?)?;
        let offset =
            u32_at(self.table.data(), at).filter(|o| at < header.file && *o != u32::MAX)?;
        Some((self.table.string_at(header.file, offset as usize, header.pc)?, line))
    }

    /// How far SP is below its value at entry when the instruction at `pc` executes, in bytes. On
    /// x86-64 the return address is at SP plus this. `None` if the table has no value there.
    #[must_use]
    pub fn sp_delta(&self, pc: Svma) -> Option<u32> {
        let table = self.field(self.layout().name + 12)?;
        u32::try_from(self.value(table, pc)?.value).ok()
    }

    /// Whether the function has a table of stack depths (`pcsp`).
    #[must_use]
    pub fn has_sp_table(&self) -> bool {
        self.field(self.layout().name + 12).is_some_and(|t| t != 0)
    }

    /// The value of PCDATA table `index` at `pc`.
    #[must_use]
    pub fn pcdata(&self, index: usize, pc: Svma) -> Option<PcValue> {
        let layout = self.layout();
        let count = self.field(layout.name + 24)? as usize;
        if index >= count {
            return None;
        }
        self.value(self.field(layout.arrays + 4 * index)?, pc)
    }

    /// The offset of FUNCDATA table `index` from `moduledata.gofunc`, in bytes. `None` before Go
    /// 1.18, which stores an address instead.
    #[must_use]
    pub fn funcdata(&self, index: usize) -> Option<u32> {
        let layout = self.layout();
        if self.table.header.format == Format::Go116 || index >= usize::from(self.id_byte(3)) {
            return None;
        }
        let pcdata = (self.field(layout.name + 24)? as usize).checked_mul(4)?;
        let at = layout.arrays.checked_add(pcdata)?.checked_add(4 * index)?;
        self.field(at).filter(|o| *o != u32::MAX)
    }

    pub(crate) fn inline_tree_offset(&self) -> Option<u32> {
        self.funcdata(FUNCDATA_INL_TREE)
    }

    pub(crate) fn inline_index(&self, pc: Svma) -> Option<usize> {
        usize::try_from(self.pcdata(PCDATA_INL_TREE_INDEX, pc)?.value).ok()
    }

    /// Looks `pc` up in a pc-value table: pairs of varints, Δvalue (zigzag) and Δpc, that start at
    /// (−1, entry). A Δvalue of 0 ends the table, except in the first pair (`step` and `pcvalue`
    /// in runtime/symtab.go).
    fn value(&self, table: u32, pc: Svma) -> Option<PcValue> {
        // Offset 0 means that there is no table.
        if table == 0 || pc < self.entry {
            return None;
        }
        let header = &self.table.header;
        let tables = self.table.data().get(header.pc..header.pcln)?;
        let mut rest = tables.get(table as usize..)?;
        let (mut value, mut start) = (-1i32, self.entry);
        for step in 0..MAX_STEPS {
            let change = varint(&mut rest)?;
            if change == 0 && step > 0 {
                return None;
            }
            value = value.wrapping_add((change >> 1).cast_signed() ^ -((change & 1).cast_signed()));
            let advance = u64::from(varint(&mut rest)?) * u64::from(header.min_lc);
            let end = start.checked_add(advance)?;
            if pc < end {
                return Some(PcValue { value, start, end });
            }
            start = end;
        }
        None
    }
}

impl LineTable {
    pub(crate) fn name_at(&self, offset: u32) -> Cow<'_, str> {
        let header = &self.header;
        self.string_at(header.funcname, offset as usize, header.cu).unwrap_or_default()
    }

    /// The NUL-terminated string at `offset` in the part of the table from `part` to `end`.
    fn string_at(&self, part: usize, offset: usize, end: usize) -> Option<Cow<'_, str>> {
        let bytes = self.data().get(part.checked_add(offset)?..end)?;
        let bytes = &bytes[..bytes.len().min(MAX_NAME)];
        let length = bytes.iter().position(|b| *b == 0)?;
        Some(String::from_utf8_lossy(&bytes[..length]))
    }
}

/// Reads at most 32 bits from at most five bytes. Like the runtime, ignores higher bits.
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for i in 0..5 {
        let (b, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(b & 0x7f).wrapping_shl(7 * i);
        if b & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

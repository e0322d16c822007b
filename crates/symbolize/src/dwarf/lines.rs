//! Runs a unit's line program to find the row of each address, and the paths of files.

use std::sync::Arc;

use gimli::{ColumnType, DebugLineOffset, IncompleteLineProgram, Section};
use rustc_hash::FxHashMap;

use super::fuel::{Dwarf, Fuel, Reader, Stop, Unit, text};
use super::units::Loaded;
use crate::intern::Interner;

/// A position in a source file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Location {
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
}

/// Limit of the header of a line program, in bytes. Each of its directories and files takes up to
/// 100 times its bytes in memory.
const MAX_HEADER: u64 = 4 << 20;
/// Limit of a line program, in bytes.
const MAX_PROGRAM: u64 = 128 << 20;
/// Fuel for a byte of a program, which can be a row: that takes about as long as three attributes.
const BYTE_COST: u64 = 3;
/// Limit of a part of a path, in bytes: the kernel's PATH_MAX.
const MAX_PATH: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct SourceRow {
    file: u64,
    line: Option<u32>,
    column: Option<u32>,
}

/// The line program of one unit.
pub(crate) struct Lines<'a, 'u> {
    unit: &'u Unit<'a>,
    program: Option<IncompleteLineProgram<Reader<'a>>>,
    length: u64,
    rows: Vec<Option<SourceRow>>,
    paths: FxHashMap<u64, Option<Arc<str>>>,
}

impl<'a, 'u> Lines<'a, 'u> {
    pub(crate) fn new(dwarf: &Dwarf<'a>, loaded: &'u Loaded<'a>) -> Self {
        let unit = &loaded.unit;
        let (mut program, mut length) = (None, 0);
        if let Some((offset, size)) = loaded.lines.and_then(|o| Some((o, size_at(dwarf, o)?))) {
            let comp_dir = unit.comp_dir;
            program = dwarf.debug_line.program(offset, unit.address_size(), comp_dir, None).ok();
            length = size;
        }
        Self { unit, program, length, rows: Vec::new(), paths: FxHashMap::default() }
    }

    /// Finds the row of each of the sorted addresses: the last one at or before it, in a sequence
    /// that ends after it.
    pub(crate) fn run(&mut self, sorted: &[u64], fuel: &mut Fuel) -> Result<(), Stop> {
        self.rows = vec![None; sorted.len()];
        let Some(program) = self.program.clone() else { return Ok(()) };
        fuel.spend(self.length.saturating_mul(BYTE_COST))?;
        let mut state = program.rows();
        let mut before: Option<(u64, SourceRow)> = None;
        // The number of the next address: almost all rows end before it.
        let mut upcoming = 0;
        let mut missing = sorted.len();
        while let Some((_, row)) = state.next_row()? {
            let address = row.address();
            match before {
                Some((start, found)) if upcoming < sorted.len() && start < address => {
                    let mut i = upcoming;
                    while i < sorted.len() && sorted[i] < address {
                        fuel.spend(1)?;
                        if sorted[i] >= start && self.rows[i].is_none() {
                            self.rows[i] = Some(found);
                            missing -= 1;
                        }
                        i += 1;
                    }
                    upcoming = i;
                    if missing == 0 {
                        return Ok(());
                    }
                }
                None => upcoming = sorted.partition_point(|&a| a < address),
                // Rows that go backwards were already handled.
                Some(_) => {}
            }
            before = (!row.end_sequence()).then(|| (address, SourceRow::of(row)));
        }
        Ok(())
    }

    /// The row of the address of that number.
    pub(crate) fn location(
        &mut self,
        dwarf: &Dwarf<'a>,
        number: usize,
        strings: &mut Interner,
        fuel: &mut Fuel,
    ) -> Result<Option<Location>, Stop> {
        let Some(row) = self.rows.get(number).copied().flatten() else { return Ok(None) };
        let file = self.path(dwarf, row.file, strings, fuel)?;
        Ok(Some(Location { file, line: row.line, column: row.column }))
    }

    /// The path of a file by its index in the line program.
    pub(crate) fn path(
        &mut self,
        dwarf: &Dwarf<'a>,
        index: u64,
        strings: &mut Interner,
        fuel: &mut Fuel,
    ) -> Result<Option<Arc<str>>, Stop> {
        if let Some(known) = self.paths.get(&index) {
            return Ok(known.clone());
        }
        let path = self.render(dwarf, index, fuel)?.and_then(|p| strings.intern(&p));
        self.paths.insert(index, path.clone());
        Ok(path)
    }

    /// Joins the compilation directory, the file's directory and its name; an absolute part
    /// discards those before. The path is not normalized, since `..` may lead through a symbolic
    /// link.
    fn render(
        &self,
        dwarf: &Dwarf<'a>,
        index: u64,
        fuel: &mut Fuel,
    ) -> Result<Option<String>, Stop> {
        let Some(header) = self.program.as_ref().map(|p| p.header()) else { return Ok(None) };
        let Some(file) = header.file(index) else { return Ok(None) };
        // Directory 0 is the compilation directory.
        let directory = file.directory(header).filter(|_| file.directory_index() != 0);
        let mut parts = vec![self.unit.comp_dir];
        for part in directory.into_iter().chain([file.path_name()]) {
            match text(dwarf, self.unit, part, fuel)? {
                Some(part) => parts.push(Some(part)),
                None => return Ok(None),
            }
        }
        let mut path = String::new();
        for part in parts.into_iter().flatten() {
            if part.len() > MAX_PATH {
                return Ok(None);
            }
            let part = part.to_string_lossy();
            if part.starts_with('/') {
                path.clear();
            } else if !path.is_empty() && !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(&part);
        }
        Ok((!path.is_empty()).then_some(path))
    }
}

impl SourceRow {
    fn of(row: &gimli::LineRow) -> Self {
        let line = row.line().and_then(|l| u32::try_from(l.get()).ok());
        let column = match row.column() {
            ColumnType::Column(c) if line.is_some() => u32::try_from(c.get()).ok(),
            _ => None,
        };
        Self { file: row.file_index(), line, column }
    }
}

/// The length of a line program, if it and that of the header are within the limits (DWARF 5,
/// 6.2.4).
fn size_at(dwarf: &Dwarf<'_>, offset: DebugLineOffset<usize>) -> Option<u64> {
    let mut input = *dwarf.debug_line.reader();
    gimli::Reader::skip(&mut input, offset.0).ok()?;
    let (length, format) = gimli::Reader::read_initial_length(&mut input).ok()?;
    let version = gimli::Reader::read_u16(&mut input).ok()?;
    if version >= 5 {
        gimli::Reader::skip(&mut input, 2).ok()?;
    }
    let header = gimli::Reader::read_length(&mut input, format).ok()?;
    let fits = length as u64 <= MAX_PROGRAM && header as u64 <= MAX_HEADER;
    fits.then_some(length as u64)
}

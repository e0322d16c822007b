//! Loads the units of a file: their positions, ranges and abbreviations.

use std::rc::Rc;
use std::sync::Arc;

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAddrBase, DebugInfoOffset, DebugLineOffset,
    DebugLocListsBase, DebugRngListsBase, DebugStrOffsetsBase, EndianSlice, LittleEndian, Section,
    UnitType,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::fuel::{Dwarf, Fuel, Reader, Stop, Unit, text};
use super::pages::{AROUND, ResidentPages};
use super::ranges::{Claims, Ranges, address};

/// Limit of a table of abbreviations, in bytes; the largest real ones take some 100 KiB.
const MAX_ABBREV_TABLE: usize = 4 << 20;
/// Limit of cached tables, in bytes before parsing; parsed tables take about six times as much.
const MAX_CACHED_ABBREVS: usize = 2 << 20;
const MAX_CACHED_UNITS: usize = 1024;

/// The main file, or the one to which `dwz` moved common parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    /// The debug information itself.
    Main,
    /// The `dwz` file.
    Supplementary,
}

/// A unit whose root DIE was read, but not its line program.
pub(crate) struct Loaded<'a> {
    pub(crate) unit: Unit<'a>,
    pub(crate) ranges: Ranges<'a>,
    pub(crate) lines: Option<DebugLineOffset<usize>>,
    /// For a skeleton unit: the path of the file with its DIEs, relative to the compilation
    /// directory.
    pub(crate) split_name: Option<Reader<'a>>,
}

#[derive(Clone)]
struct File<'a> {
    dwarf: Arc<Dwarf<'a>>,
    /// Offsets of the units in `.debug_info`, ascending.
    offsets: Arc<[usize]>,
    /// Distinct offsets of their tables in `.debug_abbrev`, ascending. A table ends where the next
    /// one starts, at the latest. So all of them are parsed in linear time, even if in a crafted
    /// file units refer to every byte of one long table.
    tables: Arc<[usize]>,
}

impl<'a> File<'a> {
    fn new(dwarf: Dwarf<'a>, pages: &ResidentPages<'_>, broken: &mut u32) -> Self {
        let (mut offsets, mut tables) = (Vec::new(), Vec::new());
        let mut units = dwarf.units();
        loop {
            match units.next() {
                Ok(Some(header)) => {
                    if let Some(offset) = header.debug_info_offset() {
                        offsets.push(offset.0);
                        pages.touch_within(header.length_including_self());
                        tables.push(header.debug_abbrev_offset().0);
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    *broken += 1;
                    break;
                }
            }
        }
        tables.sort_unstable();
        tables.dedup();
        Self { dwarf: Arc::new(dwarf), offsets: offsets.into(), tables: tables.into() }
    }

    /// `.debug_abbrev` up to the end of the table at `offset`, and the table's length.
    fn table(&self, offset: usize) -> Option<(DebugAbbrev<Reader<'a>>, usize)> {
        let all: &'a [u8] = self.dwarf.debug_abbrev.reader().slice();
        let next = self.tables.partition_point(|&t| t <= offset);
        let end = self.tables.get(next).copied().unwrap_or(all.len());
        let end = end.min(all.len()).min(offset.checked_add(MAX_ABBREV_TABLE)?);
        let length = end.checked_sub(offset)?;
        Some((EndianSlice::new(&all[..end], LittleEndian).into(), length))
    }
}

/// The positions of the units, for another thread.
pub(crate) struct Headers<'a> {
    main: File<'a>,
    supplementary: Option<File<'a>>,
}

/// All units of the main and the supplementary file.
pub(crate) struct Units<'a> {
    main: File<'a>,
    supplementary: Option<File<'a>>,
    cache: FxHashMap<(FileKind, usize), Rc<Loaded<'a>>>,
    abbreviations: FxHashMap<(FileKind, usize), Arc<Abbreviations>>,
    cached_bytes: usize,
    /// The number of units that could not be read.
    pub(crate) broken: u32,
}

impl<'a> Units<'a> {
    pub(crate) fn new(dwarf: &Dwarf<'a>, pages: &ResidentPages<'_>) -> Self {
        let mut broken = 0;
        let supplementary = dwarf.sup().map(|s| File::new(share(s), pages, &mut broken));
        let main = File::new(share(dwarf), pages, &mut broken);
        Self { broken, ..Self::of(Headers { main, supplementary }) }
    }

    /// The units whose positions are already known.
    pub(crate) fn of(headers: Headers<'a>) -> Self {
        let Headers { main, supplementary } = headers;
        Self {
            main,
            supplementary,
            cache: FxHashMap::default(),
            abbreviations: FxHashMap::default(),
            cached_bytes: 0,
            broken: 0,
        }
    }

    /// The positions of the units, for another thread.
    pub(crate) fn headers(&self) -> Headers<'a> {
        Headers { main: self.main.clone(), supplementary: self.supplementary.clone() }
    }

    /// Bytes of strings that reading this many names may make resident.
    pub(crate) fn names_touched(&self, names: usize) -> usize {
        self.main.dwarf.debug_str.reader().len().min(names.saturating_mul(AROUND))
    }

    /// The size of a unit of the main file, in bytes.
    pub(crate) fn size(&self, number: usize) -> usize {
        let offsets = &self.main.offsets;
        let Some(start) = offsets.get(number) else { return 0 };
        let end = offsets.get(number + 1).copied();
        let end = end.unwrap_or_else(|| self.main.dwarf.debug_info.reader().len());
        end.saturating_sub(*start)
    }

    /// How many units the main file has.
    pub(crate) fn count(&self) -> usize {
        self.main.offsets.len()
    }

    fn file(&self, side: FileKind) -> Option<&File<'a>> {
        match side {
            FileKind::Main => Some(&self.main),
            FileKind::Supplementary => self.supplementary.as_ref(),
        }
    }

    /// The sections of a file, or of the main one if it does not exist.
    pub(crate) fn dwarf(&self, side: FileKind) -> Arc<Dwarf<'a>> {
        Arc::clone(&self.file(side).unwrap_or(&self.main).dwarf)
    }

    /// The number of the unit at an offset in `.debug_info`, and the offset in that unit.
    pub(crate) fn find(&self, side: FileKind, offset: usize) -> Option<(usize, gimli::UnitOffset)> {
        let offsets = &self.file(side)?.offsets;
        let number = offsets.partition_point(|&o| o <= offset).checked_sub(1)?;
        Some((number, gimli::UnitOffset(offset - offsets[number])))
    }

    /// The unit of that number.
    pub(crate) fn load(
        &mut self,
        side: FileKind,
        number: usize,
        fuel: &mut Fuel,
    ) -> Result<Rc<Loaded<'a>>, Stop> {
        if let Some(known) = self.cache.get(&(side, number)) {
            return Ok(Rc::clone(known));
        }
        let loaded = Rc::new(self.read(side, number, fuel)?);
        if self.cache.len() >= MAX_CACHED_UNITS {
            self.cache.clear();
        }
        self.cache.insert((side, number), Rc::clone(&loaded));
        Ok(loaded)
    }

    /// Copies to a unit of split DWARF the attributes that only its skeleton has.
    pub(crate) fn relocate(&mut self, number: usize, skeleton: &Unit<'a>) {
        if let Some(loaded) = self.cache.get_mut(&(FileKind::Main, number)).and_then(Rc::get_mut) {
            loaded.unit.copy_relocated_attributes(skeleton);
        }
    }

    fn read(&mut self, side: FileKind, number: usize, fuel: &mut Fuel) -> Result<Loaded<'a>, Stop> {
        let file = self.file(side).ok_or(Stop::Broken)?;
        let offset = *file.offsets.get(number).ok_or(Stop::Broken)?;
        let header = file.dwarf.debug_info.header_from_offset(DebugInfoOffset(offset))?;
        let table = header.debug_abbrev_offset().0;
        let known = self.abbreviations.get(&(side, table)).map(Arc::clone);
        let abbreviations = match known {
            Some(known) => known,
            None => {
                let (section, length) = file.table(table).ok_or(Stop::Broken)?;
                fuel.spend(length as u64)?;
                let parsed = Arc::new(header.abbreviations(&section)?);
                if self.cached_bytes + length > MAX_CACHED_ABBREVS {
                    self.abbreviations.clear();
                    self.cache.clear();
                    self.cached_bytes = 0;
                }
                self.cached_bytes += length;
                self.abbreviations.insert((side, table), Arc::clone(&parsed));
                parsed
            }
        };
        read_root(&self.dwarf(side), header, abbreviations, fuel)
    }

    /// Adds claims from `.debug_aranges`. Returns the units that are listed there.
    pub(crate) fn claim_by_index(
        &self,
        claims: &mut Claims<'_>,
        fuel: &mut Fuel,
    ) -> Result<FxHashSet<usize>, Stop> {
        let mut listed = FxHashSet::default();
        let mut headers = self.main.dwarf.debug_aranges.headers();
        // Damage in the index loses nothing: units that it does not list are read themselves.
        while let Ok(Some(header)) = headers.next() {
            let Ok(unit) = self.main.offsets.binary_search(&header.debug_info_offset().0) else {
                continue;
            };
            let mut entries = header.entries();
            while let Ok(Some(entry)) = entries.next() {
                fuel.spend(1)?;
                let range = entry.range();
                if range.begin < range.end {
                    listed.insert(unit);
                    claims.add(unit, range.begin, range.end, fuel)?;
                }
            }
        }
        Ok(listed)
    }

    /// Adds claims from the root DIEs of units that are not in `known`. Returns those that have
    /// lines but no ranges.
    pub(crate) fn claim_by_units(
        &mut self,
        known: &FxHashSet<usize>,
        claims: &mut Claims<'_>,
        pages: &ResidentPages<'_>,
        fuel: &mut Fuel,
    ) -> Result<Vec<u32>, Stop> {
        let mut without_ranges = Vec::new();
        for number in (0..self.main.offsets.len()).filter(|n| !known.contains(n)) {
            fuel.spend(1)?;
            pages.touch_within(self.size(number));
            let loaded = match self.read(FileKind::Main, number, fuel) {
                Ok(loaded) => loaded,
                Err(Stop::Broken) => {
                    self.broken += 1;
                    continue;
                }
                Err(Stop::Exhausted) => return Err(Stop::Exhausted),
            };
            if matches!(
                loaded.unit.header.type_(),
                UnitType::Type { .. } | UnitType::SplitType { .. } | UnitType::Partial
            ) {
                continue;
            }
            let dwarf = &self.main.dwarf;
            let any = loaded.ranges.each(dwarf, &loaded.unit, fuel, |begin, end, fuel| {
                claims.add(number, begin, end, fuel)
            });
            match any {
                Ok(false) if loaded.lines.is_some() => without_ranges.push(number as u32),
                Ok(_) => {}
                Err(Stop::Broken) => self.broken += 1,
                Err(Stop::Exhausted) => return Err(Stop::Exhausted),
            }
        }
        Ok(without_ranges)
    }
}

/// Another reference to the sections, and to the supplementary file, where strings are looked up.
fn share<'a>(dwarf: &Dwarf<'a>) -> Dwarf<'a> {
    let mut copy = gimli::Dwarf {
        debug_abbrev: dwarf.debug_abbrev,
        debug_addr: dwarf.debug_addr,
        debug_aranges: dwarf.debug_aranges,
        debug_info: dwarf.debug_info,
        debug_line: dwarf.debug_line,
        debug_line_str: dwarf.debug_line_str,
        debug_str: dwarf.debug_str,
        debug_str_offsets: dwarf.debug_str_offsets,
        ranges: dwarf.ranges,
        file_type: dwarf.file_type,
        ..Default::default()
    };
    copy.sup = dwarf.sup.clone();
    copy
}

/// As `gimli::Unit::new`, but without the line program: its header holds all files of the unit,
/// while most units are only loaded for a name or a range.
fn read_root<'a>(
    dwarf: &Dwarf<'a>,
    header: gimli::UnitHeader<Reader<'a>>,
    abbreviations: Arc<Abbreviations>,
    fuel: &mut Fuel,
) -> Result<Loaded<'a>, Stop> {
    let (encoding, kind) = (header.encoding(), dwarf.file_type);
    let mut unit = Unit {
        abbreviations,
        name: None,
        comp_dir: None,
        low_pc: 0,
        str_offsets_base: DebugStrOffsetsBase::default_for_encoding_and_file(encoding, kind),
        addr_base: DebugAddrBase(0),
        loclists_base: DebugLocListsBase::default_for_encoding_and_file(encoding, kind),
        rnglists_base: DebugRngListsBase::default_for_encoding_and_file(encoding, kind),
        line_program: None,
        dwo_id: match header.type_() {
            UnitType::Skeleton(id) | UnitType::SplitCompilation(id) => Some(id),
            _ => None,
        },
        header,
    };
    let mut split_name = None;
    let (mut ranges, mut lines, mut comp_dir, mut low) = (Ranges::default(), None, None, None);
    let abbreviations = Arc::clone(&unit.abbreviations);
    let mut entries = unit.header.entries_raw(&abbreviations, None)?;
    let root = entries.read_abbreviation()?.ok_or(Stop::Broken)?;
    fuel.spend(root.attributes().len() as u64 + 1)?;
    for spec in root.attributes() {
        let attr = entries.read_attribute(*spec)?;
        ranges.note(&attr);
        match (attr.name(), attr.value()) {
            (gimli::DW_AT_comp_dir, value) => comp_dir = Some(value),
            (gimli::DW_AT_low_pc, value) => low = Some(value),
            (gimli::DW_AT_dwo_name | gimli::DW_AT_GNU_dwo_name, value) => split_name = Some(value),
            (gimli::DW_AT_GNU_dwo_id, AttributeValue::DwoId(id)) => unit.dwo_id = Some(id),
            (gimli::DW_AT_stmt_list, AttributeValue::DebugLineRef(o)) => lines = Some(o),
            (_, AttributeValue::DebugStrOffsetsBase(base)) => unit.str_offsets_base = base,
            (_, AttributeValue::DebugAddrBase(base)) => unit.addr_base = base,
            (_, AttributeValue::DebugRngListsBase(base)) => unit.rnglists_base = base,
            _ => {}
        }
    }
    // These need the bases, which may come after them.
    unit.comp_dir = match comp_dir {
        Some(v) => text(dwarf, &unit, v, fuel)?,
        None => None,
    };
    unit.low_pc = match low {
        Some(v) => address(dwarf, &unit, &v)?.unwrap_or(0),
        None => 0,
    };
    let split_name = match split_name {
        Some(v) => text(dwarf, &unit, v, fuel)?,
        None => None,
    };
    Ok(Loaded { unit, ranges, lines, split_name })
}

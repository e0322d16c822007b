//! DWARF for a batch of addresses.
//!
//! Every attribute, range and byte of a line program that is looked at costs [`Fuel`], so that a file whose parts refer to each other in circles, or a million times to
//! the same list, ends after a bounded time with what was found until then.

mod functions;
mod lines;
mod names;
mod pages;
mod parallel;
mod ranges;
mod split;
mod units;

use std::sync::{Arc, OnceLock};

use gimli::{DwarfSections, DwoId, EndianSlice, LittleEndian, Section, SectionId};
use image::ElfImage;

use crate::files::Attempt;
use crate::intern::Interner;
use crate::sections::Decompressed;
use names::Names;
use pages::Pages;
use split::Split;
pub(crate) use split::{Finder, Package};
use units::{Side, Units};

pub(crate) type Reader<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Dwarf<'a> = gimli::Dwarf<Reader<'a>>;
pub(crate) type Unit<'a> = gimli::Unit<Reader<'a>>;

/// A second of work, whatever the file. The largest units in the field (Chromium, LTO) cost some
/// 10⁷.
const FUEL: u64 = 1 << 28;
/// For each byte that there is to read: a program may be hot in all of its units.
const FUEL_PER_BYTE: u64 = 4;
/// Some ten seconds.
const MAX_FUEL: u64 = 1 << 31;
/// Units that claim the same address. More than one is a linker's oddity.
const MAX_UNITS_PER_ADDRESS: u8 = 8;

/// Work that may still be done.
#[derive(Debug)]
pub(crate) struct Fuel(u64);

impl Fuel {
    fn for_sections(dwarf: &Dwarf<'_>) -> Self {
        let bytes = dwarf.debug_info.reader().len() as u64 + dwarf.debug_line.reader().len() as u64;
        Self(bytes.saturating_mul(FUEL_PER_BYTE).saturating_add(FUEL).min(MAX_FUEL))
    }

    pub(crate) fn spend(&mut self, n: u64) -> Result<(), Stop> {
        self.0 = self.0.checked_sub(n).ok_or(Stop::Exhausted)?;
        Ok(())
    }
}

/// Why a part of the DWARF was left.
#[derive(Debug)]
pub(crate) enum Stop {
    /// No fuel is left: all is over.
    Exhausted,
    /// This unit is broken, others may be fine.
    Broken,
}

impl From<gimli::Error> for Stop {
    fn from(_: gimli::Error) -> Self {
        Self::Broken
    }
}

/// A string; `None` where it cannot be read. Finding its end takes time by its length, and a
/// crafted file has one string without an end that everything is named by.
fn text<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    value: gimli::AttributeValue<Reader<'a>>,
    fuel: &mut Fuel,
) -> Result<Option<Reader<'a>>, Stop> {
    let found = dwarf.attr_string(unit, value).ok();
    let searched = found.map_or_else(
        || dwarf.debug_str.reader().len().max(dwarf.debug_line_str.reader().len()),
        |s| s.len(),
    );
    fuel.spend(searched as u64 / 16)?;
    Ok(found)
}

/// The sections of a file, and of the file that `dwz` moved common parts to.
pub(crate) struct Sections<'a> {
    pages: Pages<'a>,
    main: DwarfSections<&'a [u8]>,
    supplementary: Option<DwarfSections<&'a [u8]>>,
    /// See [`Decompressed::unreadable`].
    pub(crate) unreadable: u32,
}

/// What is in plain of a file and of its `dwz` file.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    main: OnceLock<Decompressed>,
    supplementary: OnceLock<Decompressed>,
}

impl Plain {
    /// What is held in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |file: &OnceLock<Decompressed>| file.get().map_or(0, Decompressed::bytes);
        of(&self.main) + of(&self.supplementary)
    }
}

impl<'a> Sections<'a> {
    /// Decompresses what is not in plain yet.
    pub(crate) fn read(
        main: &'a ElfImage,
        supplementary: Option<&'a ElfImage>,
        plain: &'a Plain,
    ) -> Self {
        let pages = Pages::of(Some(main));
        let (main, a) = read_sections(main, &plain.main);
        let other = supplementary.map(|image| read_sections(image, &plain.supplementary));
        let (supplementary, b) = other.map_or((None, 0), |(sections, n)| (Some(sections), n));
        Self { pages, main, supplementary, unreadable: a + b }
    }

    fn dwarf(&self) -> Dwarf<'_> {
        self.main.borrow_with_sup(self.supplementary.as_ref(), |bytes| {
            EndianSlice::new(bytes, LittleEndian)
        })
    }
}

/// Locations of variables, macros and type units are often the largest sections, and name no
/// function.
const WANTED: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
];

fn read_sections<'a>(
    image: &'a ElfImage,
    plain: &'a OnceLock<Decompressed>,
) -> (DwarfSections<&'a [u8]>, u32) {
    let names = || WANTED.iter().map(|id| id.name());
    let decompressed = plain.get_or_init(|| Decompressed::read(image, names()));
    let loaded = DwarfSections::load(|id| -> Result<_, std::convert::Infallible> {
        let wanted = WANTED.contains(&id);
        Ok(if wanted { decompressed.section(image, id.name()) } else { &[][..] })
    });
    let Ok(sections) = loaded;
    (sections, decompressed.unreadable)
}

/// A place in a source file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Location {
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
}

/// What DWARF says of a function.
#[derive(Debug, Clone, Default)]
pub(crate) struct Described {
    /// `DW_AT_name`.
    pub(crate) name: Option<Arc<str>>,
    /// `DW_AT_linkage_name`.
    pub(crate) linkage_name: Option<Arc<str>>,
    /// `DW_AT_decl_line`.
    pub(crate) decl_line: Option<u32>,
}

/// A function at an address, and the place in it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: Described,
    pub(crate) location: Location,
}

/// What was found for one address.
#[derive(Debug, Default)]
pub(crate) struct Hit {
    /// Innermost first, the physical function last; empty where no function covers the address.
    pub(crate) calls: Vec<Call>,
    /// Start of the contiguous code of the physical function that holds the address.
    pub(crate) begin: u64,
    /// The line table's row, where no function covers the address.
    pub(crate) line_only: Option<Location>,
}

/// What was found for a batch.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    /// One for each address.
    pub(crate) hits: Vec<Hit>,
    /// Units that were left in the middle.
    pub(crate) broken_units: u32,
    /// Units whose DIEs are in a file that was not found.
    pub(crate) missing_split: u32,
    /// Where those files were looked for.
    pub(crate) attempts: Vec<Attempt>,
    /// The fuel ran out.
    pub(crate) exhausted: bool,
}

/// The files that hold the rest of a program's units, if it was built so.
#[derive(Default)]
pub(crate) struct SplitFiles<'a> {
    pub(crate) package: Option<Package<'a>>,
    pub(crate) finder: Option<Finder<'a>>,
}

/// Looks up addresses, which are sorted and distinct.
pub(crate) fn resolve(
    sections: &Sections<'_>,
    split: SplitFiles<'_>,
    sorted: &[u64],
    strings: &mut Interner,
) -> Hits {
    let dwarf = sections.dwarf();
    let SplitFiles { package, finder } = split;
    let pages = &sections.pages;
    let units = Units::new(&dwarf, pages);
    let mut batch = Batch {
        units,
        names: Names::default(),
        pages,
        package: package.as_ref(),
        finder,
        strings,
        fuel: Fuel::for_sections(&dwarf),
        sorted,
        hits: (0..sorted.len()).map(|_| Hit::default()).collect(),
        broken_units: 0,
        missing_split: 0,
    };
    let exhausted = matches!(batch.run(), Err(Stop::Exhausted));
    pages.release();
    let broken_units = batch.broken_units + batch.units.broken;
    let attempts = batch.finder.map(|f| f.attempts).unwrap_or_default();
    let (hits, missing_split) = (batch.hits, batch.missing_split);
    Hits { hits, broken_units, missing_split, attempts, exhausted }
}

struct Batch<'a, 'b> {
    units: Units<'a>,
    names: Names,
    pages: &'b Pages<'b>,
    package: Option<&'b Package<'b>>,
    finder: Option<Finder<'b>>,
    strings: &'b mut Interner,
    fuel: Fuel,
    sorted: &'b [u64],
    hits: Vec<Hit>,
    broken_units: u32,
    missing_split: u32,
}

impl Batch<'_, '_> {
    /// Three ways to the unit of an address, each asked only for what the one before left open:
    /// the index, the ranges that each unit states, and the units that state none.
    fn run(&mut self) -> Result<(), Stop> {
        let mut claims = ranges::Claims::new(self.sorted, MAX_UNITS_PER_ADDRESS);
        let indexed = self.units.claims_by_index(&mut claims, &mut self.fuel)?;
        self.look_into(&claims.take())?;
        if claims.unclaimed().is_empty() {
            return Ok(());
        }
        let rangeless =
            self.units.claims_by_root(&indexed, &mut claims, self.pages, &mut self.fuel)?;
        self.look_into(&claims.take())?;
        let open = claims.unclaimed();
        for unit in rangeless {
            self.look_into(&open.iter().map(|&i| (unit, i)).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// `claims` are pairs of a unit and an address, by their numbers, in order.
    fn look_into(&mut self, claims: &[(u32, u32)]) -> Result<(), Stop> {
        let groups: Vec<&[(u32, u32)]> = claims.chunk_by(|a, b| a.0 == b.0).collect();
        let parts = parallel::parts(&groups, |group| self.units.size(group[0].0 as usize));
        if parts.len() > 1 { self.look_in_parallel(&parts) } else { self.look_one_by_one(&groups) }
    }

    /// Each group holds the claims of one unit.
    fn look_one_by_one(&mut self, groups: &[&[(u32, u32)]]) -> Result<(), Stop> {
        for of_unit in groups {
            let open: Vec<u32> = of_unit
                .iter()
                .map(|c| c.1)
                .filter(|&i| self.hits[i as usize].calls.is_empty())
                .collect();
            match self.look_into_unit(of_unit[0].0 as usize, &open) {
                Err(Stop::Broken) => self.broken_units += 1,
                other => other?,
            }
        }
        Ok(())
    }

    fn look_into_unit(&mut self, number: usize, open: &[u32]) -> Result<(), Stop> {
        if open.is_empty() {
            return Ok(());
        }
        let loaded = self.units.load(Side::Main, number, &mut self.fuel)?;
        let dwarf = self.units.dwarf(Side::Main);
        let mut task = Task {
            open,
            addresses: open.iter().map(|&i| self.sorted[i as usize]).collect(),
            lines: lines::Lines::new(&dwarf, &loaded),
            line_dwarf: &dwarf,
            strings: self.strings,
            fuel: &mut self.fuel,
            hits: &mut self.hits,
        };
        // A broken part must not hide the sound rest, so each result is used as far as it got.
        let rows = task.lines.run(&task.addresses, task.fuel);
        let mut walked = Ok(false);
        if let (Some(id), Some(name)) = (loaded.unit.dwo_id, loaded.split_name) {
            walked =
                look_into_split(&mut task, self.package, self.finder.as_mut(), &loaded, id, name);
            self.missing_split += u32::from(matches!(walked, Ok(false)));
        }
        self.pages.touch(self.units.size(number) + self.units.names_touched(open.len()));
        if let Ok(false) = walked {
            walked = task.walk(&mut self.units, &mut self.names, number).map(|()| true);
        }
        walked.and(rows)
    }
}

/// Looks for the DIEs of a skeleton unit in the files that hold them; tells whether it found them.
fn look_into_split(
    task: &mut Task<'_, '_, '_>,
    package: Option<&Package<'_>>,
    finder: Option<&mut Finder<'_>>,
    skeleton: &units::Loaded<'_>,
    id: DwoId,
    name: Reader<'_>,
) -> Result<bool, Stop> {
    let parent = task.line_dwarf;
    if let Some(dwarf) = package.and_then(|p| p.unit(id, parent))
        && walk_split(task, &dwarf, &skeleton.unit, id)?
    {
        return Ok(true);
    }
    let Some(finder) = finder else { return Ok(false) };
    finder.each(skeleton.unit.comp_dir, name, |image| {
        let sections = Split::read(image, task.fuel)?;
        walk_split(task, &sections.dwarf(parent), &skeleton.unit, id)
    })
}

/// Walks the unit of that id in a split file, if it is there.
fn walk_split<'a>(
    task: &mut Task<'_, '_, '_>,
    dwarf: &Dwarf<'a>,
    skeleton: &Unit<'a>,
    id: DwoId,
) -> Result<bool, Stop> {
    let mut units = Units::new(dwarf, &Pages::of(None));
    let Some(number) = split::find_unit(&mut units, id, task.fuel)? else { return Ok(false) };
    units.relocate(number, skeleton);
    task.walk(&mut units, &mut Names::default(), number).map(|()| true)
}

/// The addresses of one unit, and what is needed to answer them.
struct Task<'t, 'l, 'u> {
    /// By their numbers in the batch.
    open: &'t [u32],
    addresses: Vec<u64>,
    lines: lines::Lines<'l, 'u>,
    line_dwarf: &'t Dwarf<'l>,
    strings: &'t mut Interner,
    fuel: &'t mut Fuel,
    hits: &'t mut [Hit],
}

impl Task<'_, '_, '_> {
    /// Walks the DIEs of a unit, whose lines may be in another file.
    fn walk<'a>(
        &mut self,
        units: &mut Units<'a>,
        names: &mut Names,
        number: usize,
    ) -> Result<(), Stop> {
        let loaded = units.load(Side::Main, number, self.fuel)?;
        let mut walk = functions::Walk::new(&self.addresses);
        let walked = walk.run(&units.dwarf(Side::Main), &loaded.unit, self.fuel);
        for (n, &i) in self.open.iter().enumerate() {
            let row = self.lines.location(self.line_dwarf, n, self.strings, self.fuel)?;
            let hit = &mut self.hits[i as usize];
            let Some((begin, chain)) = walk.chain(n) else {
                if row.as_ref().is_some_and(|r| r.line.is_some()) && hit.line_only.is_none() {
                    hit.line_only = row;
                }
                continue;
            };
            let mut calls = Vec::new();
            let mut here = row.unwrap_or_default();
            for node in chain {
                let file = match node.call.file {
                    Some(f) => self.lines.path(self.line_dwarf, f, self.strings, self.fuel)?,
                    None => None,
                };
                let (line, column) = (node.call.line, node.call.column);
                let location = std::mem::replace(&mut here, Location { file, line, column });
                let at = (Side::Main, number, node.die);
                let function = names.describe(at, units, self.strings, self.fuel)?;
                calls.push(Call { function, location });
            }
            (hit.begin, hit.calls) = (begin, calls);
        }
        walked
    }
}

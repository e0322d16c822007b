//! Looks up a batch of addresses in DWARF: functions, inlined calls and lines.
//!
//! Every attribute, range and byte of a line program that is read costs [`Fuel`]. So a file whose
//! parts refer to each other in cycles, or a million times to the same list, takes bounded time,
//! and gives what was found until the fuel ran out.

mod fuel;
mod functions;
mod lines;
mod names;
mod pages;
mod parallel;
mod ranges;
mod split;
mod units;

use std::sync::OnceLock;

use gimli::{DwarfSections, DwoId, EndianSlice, LittleEndian, SectionId};
use image::ElfImage;

use crate::files::RejectedFile;
use crate::intern::Interner;
use crate::sections::Decompressed;
use fuel::Unit;
use fuel::{Dwarf, Fuel, Reader, Stop};
pub(crate) use lines::Location;
pub(crate) use names::FunctionInfo;
use names::Names;
use pages::ResidentPages;
use split::DwoFile;
pub(crate) use split::{DwoFinder, DwpFile};
use units::{FileKind, Units};

/// Limit of units that claim the same address. Usually it is one.
const MAX_UNITS_PER_ADDRESS: u8 = 8;

/// The sections of a file and of its `dwz` file, to which common parts were moved.
pub(crate) struct Sections<'a> {
    pages: ResidentPages<'a>,
    main: DwarfSections<&'a [u8]>,
    supplementary: Option<DwarfSections<&'a [u8]>>,
    /// See [`Decompressed::unreadable`].
    pub(crate) unreadable: u32,
}

/// The decompressed sections of a file and of its `dwz` file.
#[derive(Debug, Default)]
pub(crate) struct DecompressedFiles {
    main: OnceLock<Decompressed>,
    supplementary: OnceLock<Decompressed>,
}

impl DecompressedFiles {
    /// Bytes that are held in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |file: &OnceLock<Decompressed>| file.get().map_or(0, Decompressed::bytes);
        of(&self.main) + of(&self.supplementary)
    }
}

impl<'a> Sections<'a> {
    /// Reads the sections, decompressing those that `decompressed` does not hold yet.
    pub(crate) fn read(
        main: &'a ElfImage,
        supplementary: Option<&'a ElfImage>,
        decompressed: &'a DecompressedFiles,
    ) -> Self {
        let pages = ResidentPages::of(Some(main));
        let (main, a) = read_sections(main, &decompressed.main);
        let other = supplementary.map(|image| read_sections(image, &decompressed.supplementary));
        let (supplementary, b) = other.map_or((None, 0), |(sections, n)| (Some(sections), n));
        Self { pages, main, supplementary, unreadable: a + b }
    }

    fn dwarf(&self) -> Dwarf<'_> {
        self.main.borrow_with_sup(self.supplementary.as_ref(), |bytes| {
            EndianSlice::new(bytes, LittleEndian)
        })
    }
}

/// The sections that are needed. Others (locations of variables, macros, type units) are often the
/// largest ones, but name no functions.
const SECTIONS: [SectionId; 10] = [
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
    cache: &'a OnceLock<Decompressed>,
) -> (DwarfSections<&'a [u8]>, u32) {
    let names = || SECTIONS.iter().map(|id| id.name());
    let decompressed = cache.get_or_init(|| Decompressed::read(image, names()));
    let loaded = DwarfSections::load(|id| -> Result<_, std::convert::Infallible> {
        let needed = SECTIONS.contains(&id);
        Ok(if needed { decompressed.section(image, id.name()) } else { &[][..] })
    });
    let Ok(sections) = loaded;
    (sections, decompressed.unreadable)
}

/// A function at an address, and the position in it.
#[derive(Debug)]
pub(crate) struct DwarfFrame {
    pub(crate) function: FunctionInfo,
    pub(crate) location: Location,
}

/// The result for one address.
#[derive(Debug, Default)]
pub(crate) struct Hit {
    /// Innermost first, the physical function last; empty if no function covers the address.
    pub(crate) frames: Vec<DwarfFrame>,
    /// The start of the physical function's contiguous code that holds the address.
    pub(crate) begin: u64,
    /// The line table's row, if no function covers the address.
    pub(crate) line_only: Option<Location>,
}

/// The result for a batch of addresses.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    /// One result for each address.
    pub(crate) hits: Vec<Hit>,
    /// The number of damaged units, which were not read to their end.
    pub(crate) broken_units: u32,
    /// The number of units whose DIEs are in a file that was not found.
    pub(crate) missing_split: u32,
    /// Where those files were searched for.
    pub(crate) rejected: Vec<RejectedFile>,
    /// Whether the fuel ran out.
    pub(crate) exhausted: bool,
}

/// Access to the files of split DWARF, if the program has them.
#[derive(Default)]
pub(crate) struct SplitFiles<'a> {
    pub(crate) package: Option<DwpFile<'a>>,
    pub(crate) finder: Option<DwoFinder<'a>>,
}

/// Looks up addresses of the image, which are sorted and distinct.
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
    let mut lookup = Lookup {
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
    let exhausted = matches!(lookup.run(), Err(Stop::Exhausted));
    pages.release();
    let broken_units = lookup.broken_units + lookup.units.broken;
    let rejected = lookup.finder.map(|f| f.rejected).unwrap_or_default();
    let (hits, missing_split) = (lookup.hits, lookup.missing_split);
    if broken_units > 0 || missing_split > 0 || exhausted {
        tracing::debug!(broken_units, missing_split, exhausted, "debug information is incomplete");
    }
    Hits { hits, broken_units, missing_split, rejected, exhausted }
}

struct Lookup<'a, 'b> {
    units: Units<'a>,
    names: Names,
    pages: &'b ResidentPages<'b>,
    package: Option<&'b DwpFile<'b>>,
    finder: Option<DwoFinder<'b>>,
    strings: &'b mut Interner,
    fuel: Fuel,
    sorted: &'b [u64],
    hits: Vec<Hit>,
    broken_units: u32,
    missing_split: u32,
}

impl Lookup<'_, '_> {
    /// Finds the units of the addresses in three ways, each only for the addresses that are left by
    /// the one before: the index, the ranges of each unit, and all units without ranges.
    fn run(&mut self) -> Result<(), Stop> {
        let mut claims = ranges::Claims::new(self.sorted, MAX_UNITS_PER_ADDRESS);
        let indexed = self.units.claim_by_index(&mut claims, &mut self.fuel)?;
        self.look_up(&claims.take())?;
        if claims.unclaimed().is_empty() {
            return Ok(());
        }
        let without_ranges =
            self.units.claim_by_units(&indexed, &mut claims, self.pages, &mut self.fuel)?;
        self.look_up(&claims.take())?;
        let open = claims.unclaimed();
        for unit in without_ranges {
            self.look_up(&open.iter().map(|&i| (unit, i)).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Looks up addresses in units that claim them: sorted pairs of unit number and address number.
    fn look_up(&mut self, claims: &[(u32, u32)]) -> Result<(), Stop> {
        let groups: Vec<&[(u32, u32)]> = claims.chunk_by(|a, b| a.0 == b.0).collect();
        let parts = parallel::parts(&groups, |group| self.units.size(group[0].0 as usize));
        if parts.len() > 1 {
            self.look_up_in_parallel(&parts)
        } else {
            self.look_up_in_order(&groups)
        }
    }

    /// Looks up the claims one unit after the other. Each group holds those of one unit.
    fn look_up_in_order(&mut self, groups: &[&[(u32, u32)]]) -> Result<(), Stop> {
        for of_unit in groups {
            let open: Vec<u32> = of_unit
                .iter()
                .map(|c| c.1)
                .filter(|&i| self.hits[i as usize].frames.is_empty())
                .collect();
            match self.look_up_unit(of_unit[0].0 as usize, &open) {
                Err(Stop::Broken) => {
                    tracing::trace!(unit = of_unit[0].0, "damaged unit");
                    self.broken_units += 1;
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn look_up_unit(&mut self, number: usize, open: &[u32]) -> Result<(), Stop> {
        if open.is_empty() {
            return Ok(());
        }
        let loaded = self.units.load(FileKind::Main, number, &mut self.fuel)?;
        let dwarf = self.units.dwarf(FileKind::Main);
        let mut lookup = UnitLookup {
            open,
            addresses: open.iter().map(|&i| self.sorted[i as usize]).collect(),
            lines: lines::Lines::new(&dwarf, &loaded),
            line_dwarf: &dwarf,
            strings: self.strings,
            fuel: &mut self.fuel,
            hits: &mut self.hits,
        };
        // Damage in one part must not hide the others: each result is used as far as it got.
        let rows = lookup.lines.run(&lookup.addresses, lookup.fuel);
        let mut walked = Ok(false);
        if let (Some(id), Some(name)) = (loaded.unit.dwo_id, loaded.split_name) {
            walked =
                look_up_split(&mut lookup, self.package, self.finder.as_mut(), &loaded, id, name);
            self.missing_split += u32::from(matches!(walked, Ok(false)));
        }
        self.pages.touch(self.units.size(number) + self.units.names_touched(open.len()));
        if let Ok(false) = walked {
            walked = lookup.walk(&mut self.units, &mut self.names, number).map(|()| true);
        }
        walked.and(rows)
    }
}

/// Searches for the DIEs of a skeleton unit in the files of split DWARF. Returns whether they were
/// found.
fn look_up_split(
    lookup: &mut UnitLookup<'_, '_, '_>,
    package: Option<&DwpFile<'_>>,
    finder: Option<&mut DwoFinder<'_>>,
    skeleton: &units::Loaded<'_>,
    id: DwoId,
    name: Reader<'_>,
) -> Result<bool, Stop> {
    let parent = lookup.line_dwarf;
    if let Some(dwarf) = package.and_then(|p| p.unit(id, parent))
        && walk_split(lookup, &dwarf, &skeleton.unit, id)?
    {
        return Ok(true);
    }
    let Some(finder) = finder else { return Ok(false) };
    finder.each(skeleton.unit.comp_dir, name, |image| {
        let sections = DwoFile::read(image, lookup.fuel)?;
        walk_split(lookup, &sections.dwarf(parent), &skeleton.unit, id)
    })
}

/// Walks the unit with that id in a file of split DWARF. Returns whether it exists.
fn walk_split<'a>(
    lookup: &mut UnitLookup<'_, '_, '_>,
    dwarf: &Dwarf<'a>,
    skeleton: &Unit<'a>,
    id: DwoId,
) -> Result<bool, Stop> {
    let mut units = Units::new(dwarf, &ResidentPages::of(None));
    let Some(number) = split::find_unit(&mut units, id, lookup.fuel)? else { return Ok(false) };
    units.relocate(number, skeleton);
    lookup.walk(&mut units, &mut Names::default(), number).map(|()| true)
}

/// The look-up of addresses in one unit.
struct UnitLookup<'t, 'l, 'u> {
    /// The numbers of the addresses in the batch.
    open: &'t [u32],
    addresses: Vec<u64>,
    lines: lines::Lines<'l, 'u>,
    line_dwarf: &'t Dwarf<'l>,
    strings: &'t mut Interner,
    fuel: &'t mut Fuel,
    hits: &'t mut [Hit],
}

impl UnitLookup<'_, '_, '_> {
    /// Walks the DIEs of a unit. Its lines may be in another file.
    fn walk<'a>(
        &mut self,
        units: &mut Units<'a>,
        names: &mut Names,
        number: usize,
    ) -> Result<(), Stop> {
        let loaded = units.load(FileKind::Main, number, self.fuel)?;
        let mut walk = functions::Walk::new(&self.addresses);
        let walked = walk.run(&units.dwarf(FileKind::Main), &loaded.unit, self.fuel);
        for (n, &i) in self.open.iter().enumerate() {
            let row = self.lines.location(self.line_dwarf, n, self.strings, self.fuel)?;
            let hit = &mut self.hits[i as usize];
            let Some((begin, chain)) = walk.chain(n) else {
                if row.as_ref().is_some_and(|r| r.line.is_some()) && hit.line_only.is_none() {
                    hit.line_only = row;
                }
                continue;
            };
            let mut frames = Vec::new();
            let mut here = row.unwrap_or_default();
            for node in chain {
                let file = match node.call.file {
                    Some(f) => self.lines.path(self.line_dwarf, f, self.strings, self.fuel)?,
                    None => None,
                };
                let (line, column) = (node.call.line, node.call.column);
                let location = std::mem::replace(&mut here, Location { file, line, column });
                let at = (FileKind::Main, number, node.die);
                let function = names.describe(at, units, self.strings, self.fuel)?;
                frames.push(DwarfFrame { function, location });
            }
            (hit.begin, hit.frames) = (begin, frames);
        }
        walked
    }
}

//! Limits the work of a look-up: every attribute, range and byte that is read costs fuel.

use gimli::{EndianSlice, LittleEndian, Section};

pub(crate) type Reader<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Dwarf<'a> = gimli::Dwarf<Reader<'a>>;
pub(crate) type Unit<'a> = gimli::Unit<Reader<'a>>;

/// Fuel for any file: about a second of work. The largest real units (Chromium, LTO) cost some 10⁷.
const FUEL: u64 = 1 << 28;
/// Additional fuel for each byte of the file: a profile may have addresses in all units.
const FUEL_PER_BYTE: u64 = 4;
/// Limit of fuel: about ten seconds.
const MAX_FUEL: u64 = 1 << 31;

/// The work that may still be done; see [`FUEL`].
#[derive(Debug)]
pub(crate) struct Fuel(pub(super) u64);

impl Fuel {
    pub(super) fn for_sections(dwarf: &Dwarf<'_>) -> Self {
        let bytes = dwarf.debug_info.reader().len() as u64 + dwarf.debug_line.reader().len() as u64;
        Self(bytes.saturating_mul(FUEL_PER_BYTE).saturating_add(FUEL).min(MAX_FUEL))
    }

    pub(crate) fn spend(&mut self, n: u64) -> Result<(), Stop> {
        self.0 = self.0.checked_sub(n).ok_or(Stop::Exhausted)?;
        Ok(())
    }
}

/// Why reading a part of the DWARF ended.
#[derive(Debug)]
pub(crate) enum Stop {
    /// No fuel is left: the whole look-up ends.
    Exhausted,
    /// The unit is damaged; others may be fine.
    Broken,
}

impl From<gimli::Error> for Stop {
    fn from(_: gimli::Error) -> Self {
        Self::Broken
    }
}

/// A string; `None` if it cannot be read. Fuel is spent on its length, since finding its end takes
/// time, and in a crafted file everything can be named by one endless string.
pub(super) fn text<'a>(
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

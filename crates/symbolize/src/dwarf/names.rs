//! Reads a function's name and declaration, which are often in another DIE, unit or file.

use std::sync::Arc;

use gimli::{AttributeValue, UnitOffset};
use rustc_hash::FxHashMap;

use super::fuel::{Dwarf, Fuel, Reader, Stop, Unit, text};
use super::units::{FileKind, Units};
use crate::intern::Interner;

/// The attributes of a function.
#[derive(Debug, Clone, Default)]
pub(crate) struct FunctionInfo {
    /// `DW_AT_name`.
    pub(crate) name: Option<Arc<str>>,
    /// `DW_AT_linkage_name`.
    pub(crate) linkage_name: Option<Arc<str>>,
    /// `DW_AT_decl_line`.
    pub(crate) decl_line: Option<u32>,
}

/// Limit of references that are followed. From an inlined call to its abstract origin to its
/// declaration there are two; in a crafted file they can form a cycle.
const MAX_HOPS: usize = 16;
/// Limit of a name, in bytes. A function with a longer name has none: a part of it would be wrong.
const MAX_NAME: usize = 64 << 10;

/// The position of a DIE: file, number of the unit, offset in the unit.
pub(crate) type DieAt = (FileKind, usize, UnitOffset);

/// A cache of the attributes of functions.
#[derive(Default)]
pub(crate) struct Names {
    known: FxHashMap<DieAt, FunctionInfo>,
}

impl Names {
    /// The attributes of a function. Follows `DW_AT_abstract_origin` and `DW_AT_specification`; the
    /// DIE nearer to the code takes precedence.
    pub(crate) fn describe<'a>(
        &mut self,
        at: DieAt,
        units: &mut Units<'a>,
        strings: &mut Interner,
        fuel: &mut Fuel,
    ) -> Result<FunctionInfo, Stop> {
        if let Some(known) = self.known.get(&at) {
            return Ok(known.clone());
        }
        let mut found = FunctionInfo::default();
        let mut next = Some(at);
        for _ in 0..MAX_HOPS {
            let Some(here) = next.take() else { break };
            match read_die(here, units, strings, fuel, &mut found) {
                Ok(further) => next = further,
                // What was found is still useful, and the rest of the unit may be fine.
                Err(Stop::Broken) => units.broken += 1,
                Err(Stop::Exhausted) => return Err(Stop::Exhausted),
            }
        }
        self.known.insert(at, found.clone());
        Ok(found)
    }
}

fn read_die<'a>(
    (side, number, die): DieAt,
    units: &mut Units<'a>,
    strings: &mut Interner,
    fuel: &mut Fuel,
    found: &mut FunctionInfo,
) -> Result<Option<DieAt>, Stop> {
    let loaded = units.load(side, number, fuel)?;
    let unit = &loaded.unit;
    let mut entries = unit.entries_raw(Some(die))?;
    let Some(abbrev) = entries.read_abbreviation()? else { return Ok(None) };
    fuel.spend(abbrev.attributes().len() as u64 + 1)?;
    let mut next = None;
    for spec in abbrev.attributes() {
        let attr = entries.read_attribute(*spec)?;
        let mut set = |slot: &mut Option<_>| {
            if slot.is_none() {
                *slot = string(&units.dwarf(side), unit, attr.value(), strings, fuel)?;
            }
            Ok::<_, Stop>(())
        };
        match attr.name() {
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                set(&mut found.linkage_name)?;
            }
            gimli::DW_AT_name => set(&mut found.name)?,
            gimli::DW_AT_decl_line if found.decl_line.is_none() => {
                let line = attr.udata_value().and_then(|v| u32::try_from(v).ok());
                found.decl_line = line.filter(|&l| l != 0);
            }
            gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                next = match attr.value() {
                    AttributeValue::UnitRef(offset) => Some((side, number, offset)),
                    AttributeValue::DebugInfoRef(o) => {
                        units.find(side, o.0).map(|(n, o)| (side, n, o))
                    }
                    AttributeValue::DebugInfoRefSup(o) => units
                        .find(FileKind::Supplementary, o.0)
                        .map(|(n, o)| (FileKind::Supplementary, n, o)),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    Ok(next)
}

fn string<'a>(
    dwarf: &Dwarf<'a>,
    unit: &Unit<'a>,
    value: AttributeValue<Reader<'a>>,
    strings: &mut Interner,
    fuel: &mut Fuel,
) -> Result<Option<Arc<str>>, Stop> {
    let bytes = text(dwarf, unit, value, fuel)?;
    let bytes = bytes.filter(|b| !b.is_empty() && b.len() <= MAX_NAME);
    Ok(bytes.and_then(|b| strings.intern(&b.to_string_lossy())))
}

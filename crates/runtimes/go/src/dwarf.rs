//! Reads the offsets of the Go runtime's fields from a program's DWARF, for versions of Go whose
//! layout is not in the table of offsets. Stripped programs have no DWARF.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;

use gimli::{DwarfSections, EndianSlice, LittleEndian, SectionId, Unit};
use image::{ElfImage, SectionReader};

/// Maximum size of a file's decompressed sections, in bytes; those of Kubernetes take 200 MB.
const MAX_SECTIONS: u64 = 1 << 30;
/// Maximum number of entries that are read; Kubernetes has about ten million.
const MAX_ENTRIES: usize = 64 << 20;

/// The sections that hold structs and their members.
const SECTIONS: [SectionId; 7] = [
    SectionId::DebugInfo,
    SectionId::DebugAbbrev,
    SectionId::DebugStr,
    SectionId::DebugLineStr,
    SectionId::DebugStrOffsets,
    // A unit cannot be opened without these two.
    SectionId::DebugLine,
    SectionId::DebugAddr,
];

/// The names of the required structs; some have different names in different versions of Go.
const STRUCTS: [&str; 11] = [
    "runtime.g",
    "runtime.gobuf",
    "runtime.m",
    "runtime.p",
    "runtime.mcache",
    "runtime.moduledata",
    "runtime.bucket",
    "runtime.memRecordCycle",
    "runtime.synctestBubble",
    "runtime.synctestGroup",
    "runtime.mutex",
];

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// The sizes and members of structs, by their names.
#[derive(Debug, Default)]
pub(crate) struct Structs(HashMap<String, Struct>);

#[derive(Debug, Default)]
struct Struct {
    size: u64,
    members: HashMap<String, u64>,
}

impl Structs {
    /// Reads the structs of a program; none if it has no usable DWARF.
    pub(crate) fn read_from(image: &ElfImage) -> Self {
        let mut reader = SectionReader::new(image, MAX_SECTIONS);
        let Ok(sections) = DwarfSections::load(|id| -> Result<Cow<'_, [u8]>, Infallible> {
            let needed = SECTIONS.contains(&id);
            Ok(if needed { reader.read(id.name()) } else { Cow::Borrowed(&[]) })
        });
        let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
        let mut found = Self::default();
        // Reading stops at damaged DWARF. Callers check what was found before.
        let _ = found.read(&dwarf);
        found
    }

    fn read(&mut self, dwarf: &gimli::Dwarf<Slice<'_>>) -> Result<(), gimli::Error> {
        let mut units = dwarf.units();
        let mut left = MAX_ENTRIES;
        while let Some(header) = units.next()? {
            let unit = dwarf.unit(header)?;
            self.read_unit(dwarf, &unit, &mut left)?;
            if left == 0 || self.0.len() == STRUCTS.len() {
                break;
            }
        }
        Ok(())
    }

    fn read_unit(
        &mut self,
        dwarf: &gimli::Dwarf<Slice<'_>>,
        unit: &Unit<Slice<'_>>,
        left: &mut usize,
    ) -> Result<(), gimli::Error> {
        let mut entries = unit.entries();
        let mut current: Option<String> = None;
        while let Some(entry) = entries.next_dfs()? {
            *left = left.saturating_sub(1);
            if *left == 0 {
                break;
            }
            let name = |entry: &gimli::DebuggingInformationEntry<Slice<'_>>| {
                let value = entry.attr_value(gimli::DW_AT_name)?;
                let text = dwarf.attr_string(unit, value).ok()?;
                Some(text.to_string_lossy().into_owned())
            };
            match entry.tag() {
                gimli::DW_TAG_structure_type => {
                    current = name(entry).filter(|n| STRUCTS.contains(&&**n));
                    if let Some(name) = &current {
                        let size = entry.attr_value(gimli::DW_AT_byte_size);
                        let size = size.and_then(|v| v.udata_value()).unwrap_or(0);
                        self.0.entry(name.clone()).or_default().size = size;
                    }
                }
                gimli::DW_TAG_member => {
                    let offset = entry.attr_value(gimli::DW_AT_data_member_location);
                    let offset = offset.and_then(|v| v.udata_value());
                    if let (Some(of), Some(offset), Some(name)) = (&current, offset, name(entry)) {
                        self.0.entry(of.clone()).or_default().members.insert(name, offset);
                    }
                }
                _ => current = None,
            }
        }
        Ok(())
    }

    fn member(&self, of: &str, name: &str) -> Option<u64> {
        self.0.get(of)?.members.get(name).copied()
    }

    /// The offset or size of a row of the table of offsets, by its name there:
    /// `runtime.g.sched.sp`, `sizeof.bucket`.
    pub(crate) fn offset(&self, name: &str) -> Option<u64> {
        if let Some(of) = name.strip_prefix("sizeof.") {
            return self.0.get(&format!("runtime.{of}")).map(|s| s.size).filter(|s| *s > 0);
        }
        match name {
            "runtime.g.bubble" => {
                let older = || self.member("runtime.g", "syncGroup");
                return self.member("runtime.g", "bubble").or_else(older);
            }
            "runtime.synctestBubble.id" => {
                let older = || self.member("runtime.synctestGroup", "id");
                return self.member("runtime.synctestBubble", "id").or_else(older);
            }
            _ => {}
        }
        let (of, member) = name.strip_prefix("runtime.")?.split_once('.')?;
        let of = format!("runtime.{of}");
        match member.strip_prefix("sched.") {
            Some(inner) => {
                let sched = self.member(&of, "sched")?;
                sched.checked_add(self.member("runtime.gobuf", inner)?)
            }
            None => self.member(&of, member),
        }
    }
}

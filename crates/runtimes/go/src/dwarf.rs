//! Reads struct layouts from the program's own DWARF, for Go versions that are not in the table of
//! offsets. Stripped programs have no DWARF.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read as _;

use gimli::{EndianSlice, LittleEndian, Unit};
use image::ElfImage;

/// Bytes that all decompressed sections of one file may take together. Kubernetes takes 200 MB.
const MAX_SECTIONS: u64 = 1 << 30;
/// Entries (DIEs) that are read. Kubernetes has about ten million.
const MAX_ENTRIES: usize = 64 << 20;
/// `Elf64_Chdr` {type u32, reserved u32, size u64, align u64} before a compressed section.
const HEADER: usize = 24;
const ZLIB: u32 = 1;

/// The structs to read. One of them has an older and a newer name.
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

/// Sizes and member offsets of structs, in bytes, by name.
#[derive(Debug, Default)]
pub(crate) struct Structs(HashMap<String, Struct>);

#[derive(Debug, Default)]
struct Struct {
    size: u64,
    members: HashMap<String, u64>,
}

impl Structs {
    /// Reads the structs. Empty if the image has no DWARF or it cannot be parsed.
    pub(crate) fn read_from(image: &ElfImage) -> Self {
        let mut budget = MAX_SECTIONS;
        let mut sections: HashMap<&'static str, Cow<'_, [u8]>> = HashMap::new();
        let wanted = [
            gimli::SectionId::DebugInfo,
            gimli::SectionId::DebugAbbrev,
            gimli::SectionId::DebugStr,
            gimli::SectionId::DebugLineStr,
            gimli::SectionId::DebugStrOffsets,
            // gimli cannot open a unit without these.
            gimli::SectionId::DebugLine,
            gimli::SectionId::DebugAddr,
        ];
        for id in wanted {
            let bytes = section(image, id.name(), &mut budget).unwrap_or_default();
            sections.insert(id.name(), bytes);
        }
        let dwarf = gimli::Dwarf::load(|id| {
            let bytes = sections.get(id.name()).map(|b| &**b).unwrap_or_default();
            Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
        });
        let mut found = Self::default();
        if let Ok(dwarf) = dwarf {
            // Reading ends at damaged DWARF. The caller verifies the layout that was found.
            let _ = found.read(&dwarf);
        }
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

    /// The value of a row of the table in `offsets.rs`: `runtime.g.sched.sp`, `sizeof.bucket`.
    pub(crate) fn offset(&self, name: &str) -> Option<u64> {
        if let Some(of) = name.strip_prefix("sizeof.") {
            return self.0.get(&format!("runtime.{of}")).map(|s| s.size).filter(|s| *s > 0);
        }
        match name {
            "runtime.g.bubble" => {
                let old_name = || self.member("runtime.g", "syncGroup");
                return self.member("runtime.g", "bubble").or_else(old_name);
            }
            "runtime.synctestBubble.id" => {
                let old_name = || self.member("runtime.synctestGroup", "id");
                return self.member("runtime.synctestBubble", "id").or_else(old_name);
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

/// The bytes of a section, decompressed if the linker compressed it (`-compressdwarf`). `budget` is
/// how many decompressed bytes are still allowed.
fn section<'a>(image: &'a ElfImage, name: &str, budget: &mut u64) -> Option<Cow<'a, [u8]>> {
    let section = image.section(name)?;
    if !section.compressed {
        return Some(Cow::Borrowed(section.data));
    }
    let (header, stream) = section.data.split_at_checked(HEADER)?;
    let method = u32::from_le_bytes(header[..4].try_into().ok()?);
    let size = u64::from_le_bytes(header[8..16].try_into().ok()?);
    if method != ZLIB || size > *budget {
        return None;
    }
    *budget -= size;
    let mut out = Vec::new();
    flate2::read::ZlibDecoder::new(stream).take(size).read_to_end(&mut out).ok()?;
    (out.len() as u64 == size).then_some(Cow::Owned(out))
}

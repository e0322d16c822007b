//! Reads split DWARF: the program holds skeleton units with ranges and lines, and each names the
//! file with its DIEs, a `.dwo` beside the object file. One `.dwp` can hold those of the whole
//! program (DWARF 5, 7.3.2; before that a GNU extension, <https://gcc.gnu.org/wiki/DebugFission>).

use std::borrow::Cow;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gimli::{DwarfPackageSections, DwarfSections, DwoId, EndianSlice, LittleEndian, SectionId};
use image::{ElfImage, SectionReader};

use super::fuel::{Dwarf, Fuel, Reader, Stop};
use super::units::{FileKind, Units};
use crate::files::{DebugFiles, RejectedFile, Rejection, normal};
use crate::sections::reader;

/// Limit of files that were not found and are reported.
const MAX_REJECTED: usize = 16;
/// Limit of a path in a skeleton unit, in bytes: the kernel's PATH_MAX.
const MAX_PATH: usize = 4096;
/// Bytes to decompress for a unit of fuel: they take about as long as reading an attribute.
const BYTES_PER_FUEL: u64 = 16;

/// The sections of a `.dwp` file.
pub(crate) struct DwpFile<'a>(DwarfPackageSections<Cow<'a, [u8]>>);

impl<'a> DwpFile<'a> {
    /// Reads the sections of a `.dwp` file.
    pub(crate) fn read(image: &'a ElfImage) -> Option<Self> {
        let mut reader = reader(image);
        // All of them: gimli takes a unit's part of each, and fails if one is missing.
        let sections = DwarfPackageSections::load(|id| -> gimli::Result<_> {
            Ok(id.dwo_name().map_or(Cow::Borrowed(&[][..]), |name| reader.read(name)))
        });
        sections.ok().map(Self)
    }

    /// The contributions of a unit, as sections of their own.
    pub(crate) fn unit<'s>(&'s self, id: DwoId, parent: &Dwarf<'s>) -> Option<Dwarf<'s>> {
        let borrow = |bytes: &'s Cow<'a, [u8]>| EndianSlice::new(bytes, LittleEndian);
        let package = self.0.borrow(borrow, EndianSlice::new(&[], LittleEndian)).ok()?;
        package.find_cu(id, parent).ok()?
    }
}

/// The sections of one `.dwo` file.
pub(crate) struct DwoFile<'a>(DwarfSections<Cow<'a, [u8]>>);

impl<'a> DwoFile<'a> {
    /// Reads the sections of a `.dwo` file.
    pub(crate) fn read(image: &'a ElfImage, fuel: &mut Fuel) -> Result<Self, Stop> {
        let mut reader = reader(image);
        let loaded = DwarfSections::load(|id| -> Result<_, Infallible> {
            Ok(read_section(&mut reader, id))
        });
        let Ok(sections) = loaded;
        fuel.spend(reader.decompressed_bytes() / BYTES_PER_FUEL)?;
        Ok(Self(sections))
    }

    /// The DWARF in the file; `parent` is that of the program.
    pub(crate) fn dwarf<'s>(&'s self, parent: &Dwarf<'s>) -> Dwarf<'s> {
        let mut dwarf = self.0.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
        dwarf.make_dwo(parent);
        dwarf
    }
}

fn read_section<'a>(reader: &mut SectionReader<'a>, id: SectionId) -> Cow<'a, [u8]> {
    match id {
        // With -fdebug-types-section each type has its own section.
        SectionId::DebugInfo => reader.read_all(".debug_info.dwo"),
        SectionId::DebugAbbrev
        | SectionId::DebugStr
        | SectionId::DebugStrOffsets
        | SectionId::DebugRngLists => {
            id.dwo_name().map_or(Cow::Borrowed(&[]), |name| reader.read(name))
        }
        _ => Cow::Borrowed(&[]),
    }
}

/// The number of the compilation unit with that id in a file of split DWARF.
pub(crate) fn find_unit(
    units: &mut Units<'_>,
    id: DwoId,
    fuel: &mut Fuel,
) -> Result<Option<usize>, Stop> {
    for number in 0..units.count() {
        match units.load(FileKind::Main, number, fuel) {
            Ok(loaded) if loaded.unit.dwo_id == Some(id) => return Ok(Some(number)),
            Err(Stop::Exhausted) => return Err(Stop::Exhausted),
            Ok(_) | Err(Stop::Broken) => {}
        }
    }
    Ok(None)
}

/// Searches for `.dwo` files.
pub(crate) struct DwoFinder<'f> {
    files: &'f dyn DebugFiles,
    /// The program or its debug file: what is decompressed counts against its budget.
    program: &'f ElfImage,
    /// The directory of the program, as the target sees it.
    folder: Option<PathBuf>,
    /// Candidates that were rejected.
    pub(crate) rejected: Vec<RejectedFile>,
}

impl<'f> DwoFinder<'f> {
    /// A finder for the program at `path`.
    pub(crate) fn new(files: &'f dyn DebugFiles, program: &'f ElfImage, path: &Path) -> Self {
        Self { files, program, folder: path.parent().map(Path::to_owned), rejected: Vec::new() }
    }

    /// A finder for another thread.
    pub(crate) fn fork(&self) -> Self {
        let Self { files, program, .. } = *self;
        Self { files, program, folder: self.folder.clone(), rejected: Vec::new() }
    }

    /// Adds the candidates that another finder rejected.
    pub(crate) fn add_rejected(&mut self, rejected: Vec<RejectedFile>) {
        let left = MAX_REJECTED.saturating_sub(self.rejected.len());
        self.rejected.extend(rejected.into_iter().take(left));
    }

    /// Opens the candidates for a name in a skeleton unit, one after the other, until `accept`
    /// returns true. Returns whether it did.
    pub(crate) fn each(
        &mut self,
        comp_dir: Option<Reader<'_>>,
        name: Reader<'_>,
        mut accept: impl FnMut(&ElfImage) -> Result<bool, Stop>,
    ) -> Result<bool, Stop> {
        for path in self.candidates(comp_dir, name) {
            let opened = self.files.open(&path).map_err(Rejection::from);
            let mapped: Result<Arc<ElfImage>, Rejection> =
                opened.and_then(|file| Ok(self.files.map(&file)?));
            let mapped = mapped.inspect(|image| image.share_budget_of(self.program));
            let rejection = match mapped {
                Ok(image) if accept(&image)? => return Ok(true),
                Ok(_) => Rejection::SplitUnit,
                Err(rejection) => rejection,
            };
            if self.rejected.len() < MAX_REJECTED {
                self.rejected.push(RejectedFile::new(path, rejection));
            }
        }
        Ok(false)
    }

    /// The path where the compiler wrote it, then paths beside the program, in case both were
    /// moved.
    fn candidates(&self, comp_dir: Option<Reader<'_>>, name: Reader<'_>) -> Vec<PathBuf> {
        let text = |r: Reader<'_>| {
            let text = (r.len() <= MAX_PATH).then(|| r.to_string().ok()).flatten();
            text.filter(|t| !t.is_empty()).map(PathBuf::from)
        };
        let Some(name) = text(name) else { return Vec::new() };
        let stated = comp_dir.and_then(text).unwrap_or_default().join(&name);
        let mut all = Vec::with_capacity(3);
        // A relative compilation directory does not lead anywhere.
        if stated.is_absolute() {
            all.push(normal(&stated));
        }
        if let Some(folder) = &self.folder {
            let beside =
                [name.is_relative().then_some(name.as_path()), name.file_name().map(Path::new)];
            all.extend(beside.into_iter().flatten().map(|n| normal(&folder.join(n))));
        }
        all.dedup();
        all
    }
}

//! Symbolizes a batch of addresses of one image from all sources: DWARF, symbol tables, Go's line
//! table.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use image::{ElfImage, Svma};
use rustc_hash::FxHashMap;

use crate::dwarf::{
    self, DecompressedFiles, DwarfFrame, DwoFinder, DwpFile, Hit, Location, SplitFiles,
};
use crate::files::{DebugFiles, DebugSearch, RejectedFile, has_dwarf};
use crate::intern::Interner;
use crate::minidebug::{self, MiniDebug};
use crate::symtab::{self, SHT_DYNSYM, SHT_SYMTAB, SymbolHit};
use crate::{demangle, golang, plt};

/// One function at an address: the physical one, or one that was inlined there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The name to display: see [`demangle()`].
    pub name: Arc<str>,
    /// DWARF's linkage name or the name in the symbol table, with suffixes such as `.cold`,
    /// `.part.0` or `.llvm.123`.
    pub system_name: Arc<str>,
    /// The path of the source file as it was given to the compiler; absolute if the compiler
    /// recorded its working directory. Not normalized.
    pub file: Option<Arc<str>>,
    /// The line in `file`, from 1, of the address or of the call to the frame before.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// The line where the function is declared (`DW_AT_decl_line`), from 1.
    pub start_line: Option<u32>,
}

/// The source of the physical function's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameSource {
    /// Debug information; lines and inlined calls are known.
    Dwarf,
    /// `.symtab`, of the image or of its debug file.
    Symtab,
    /// The symbol table in `.gnu_debugdata`.
    MiniDebugInfo,
    /// `.dynsym`, which only holds exported functions.
    Dynsym,
    /// Go's line table; lines and inlined calls are known.
    Pclntab,
    /// A PLT stub, named after its relocation: `memcpy@plt`.
    Plt,
}

/// The function at an address, with the calls that were inlined into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbolized {
    /// Innermost inlined call first, the physical function last; never empty.
    pub frames: Vec<Frame>,
    /// The start of the physical function in the image: the address of its symbol, or in DWARF the
    /// start of the contiguous range that holds the address (`.cold` parts have their own).
    pub start: Svma,
    /// The source of the physical function's name.
    pub source: NameSource,
    /// Whether the function is a wrapper that Go generated to call a method. Go's own profiles omit
    /// it, unless it called a panic.
    pub wrapper: bool,
}

/// Why an address has no name. These causes are expected, not failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoSymbol {
    /// The image has neither debug information nor symbols, and no debug file was found.
    #[error("no debug information and no symbol table")]
    NoTables,
    /// No function in the tables covers the address.
    #[error("no function covers the address")]
    NotCovered,
    /// The line table covers the address, but no function does.
    #[error("a source line but no function")]
    LineOnly,
    /// The look-up was cut short because the debug information exceeds a limit of work or memory.
    #[error("the debug information exceeds the limits of work and memory")]
    Limit,
}

/// What could not be read of an image; all zero for an undamaged one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Units of debug information that are damaged, at least in part.
    pub broken_units: u32,
    /// Sections that cannot be decompressed, or only to more than 2 GiB.
    pub unreadable_sections: u32,
    /// Units of split DWARF whose `.dwo` or `.dwp` file was not found, so that inlined calls in
    /// them are unknown.
    pub missing_split_units: u32,
    /// Inlined calls without a name, which were left out.
    pub nameless_inlines: u32,
    /// Whether a limit of work or memory was reached.
    pub limit_reached: bool,
}

/// The result for a batch of addresses.
#[derive(Debug)]
pub struct Batch {
    /// One result for each address, in the order of the addresses.
    pub symbols: Vec<Result<Symbolized, NoSymbol>>,
    /// What could not be read.
    pub losses: Losses,
    /// Files of split DWARF that were not found or not accepted, up to 16 of them.
    pub rejected: Vec<RejectedFile>,
}

/// The symbols and the debug information of an image. They are read on demand; decompressed
/// sections are kept for the next batch.
#[derive(Debug, Clone)]
pub struct ImageSymbols {
    image: Arc<ElfImage>,
    debug: Option<Arc<ElfImage>>,
    debug_path: Option<PathBuf>,
    supplementary: Option<Arc<ElfImage>>,
    decompressed: Arc<DecompressedFiles>,
    mini: Arc<OnceLock<MiniDebug>>,
}

impl ImageSymbols {
    /// The symbols of an image and of the debug file that [`crate::find_debug_file`] found for it.
    /// For those of the image alone pass `&DebugSearch::default()`.
    #[must_use]
    pub fn new(image: Arc<ElfImage>, found: &DebugSearch) -> Self {
        let debug = found.file.as_ref().map(|f| Arc::clone(&f.image));
        let of_debug = found.file.as_ref().and_then(|f| f.supplementary.clone());
        let supplementary = of_debug.or_else(|| found.supplementary.clone());
        let debug_path = found.file.as_ref().map(|f| f.path.clone());
        let (decompressed, mini) = Default::default();
        Self { image, debug, debug_path, supplementary, decompressed, mini }
    }

    /// Symbolizes addresses, in any order. Pass all addresses at once if possible: the tables are
    /// searched for each batch.
    #[must_use]
    pub fn resolve(&self, addresses: &[Svma]) -> Batch {
        self.look_up(addresses, None)
    }

    /// As [`Self::resolve`], and also reads split DWARF, which the compiler left beside the object
    /// files, for the units that hold the addresses. `path` is that of the image as the target sees
    /// it.
    #[must_use]
    pub fn resolve_with(&self, addresses: &[Svma], path: &Path, files: &dyn DebugFiles) -> Batch {
        self.look_up(addresses, Some(FileAccess { path, files }))
    }

    fn look_up(&self, addresses: &[Svma], access: Option<FileAccess<'_>>) -> Batch {
        let mut sorted: Vec<u64> = addresses.iter().map(|a| a.0).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut resolver = Resolver {
            symbols: self,
            access,
            rejected: Vec::new(),
            strings: Interner::default(),
            shown: FxHashMap::default(),
            demangling: MAX_DEMANGLED,
            losses: Losses::default(),
            has_tables: false,
        };
        let resolved = resolver.resolve(&sorted);
        resolver.losses.limit_reached |= resolver.strings.is_full();
        let of = |a: &Svma| match sorted.binary_search(&a.0) {
            Ok(i) => resolved[i].clone(),
            Err(_) => Err(NoSymbol::NotCovered),
        };
        let symbols = addresses.iter().map(of).collect();
        let Resolver { losses, rejected, .. } = resolver;
        tracing::debug!(
            build_id = self.image.build_id_hex(),
            path = ?access.map(|access| access.path),
            addresses = sorted.len(),
            unnamed = resolved.iter().filter(|r| r.is_err()).count(),
            ?losses,
            "symbolized an image"
        );
        Batch { symbols, losses, rejected }
    }

    /// Size of the decompressed sections that are kept in memory, in bytes.
    #[must_use]
    pub fn decompressed_bytes(&self) -> u64 {
        let mini = match self.mini.get() {
            Some(MiniDebug::Found(image)) => image.bytes().len() as u64,
            _ => 0,
        };
        self.decompressed.bytes() + mini
    }

    fn dwarf_image(&self) -> Option<&ElfImage> {
        let debug = self.debug.as_deref().filter(|d| has_dwarf(d));
        if has_dwarf(&self.image) { Some(&self.image) } else { debug }
    }
}

/// Limit of mangled names of one batch, in bytes: some hundred times what a profile needs. The
/// worst names take microseconds per byte to demangle.
const MAX_DEMANGLED: usize = 16 << 20;

/// The path of an image, and how to open files near it.
#[derive(Clone, Copy)]
struct FileAccess<'s> {
    path: &'s Path,
    files: &'s dyn DebugFiles,
}

struct Resolver<'s> {
    symbols: &'s ImageSymbols,
    access: Option<FileAccess<'s>>,
    rejected: Vec<RejectedFile>,
    strings: Interner,
    /// Demangled names by mangled name.
    shown: FxHashMap<Arc<str>, Arc<str>>,
    /// Bytes that may still be demangled.
    demangling: usize,
    losses: Losses,
    has_tables: bool,
}

/// A name from an ELF table.
struct ElfName {
    name: Arc<str>,
    start: u64,
    source: NameSource,
}

impl<'s> Resolver<'s> {
    fn resolve(&mut self, sorted: &[u64]) -> Vec<Result<Symbolized, NoSymbol>> {
        let go = golang::resolve(&self.symbols.image, sorted);
        let others = sorted.iter().zip(&go).filter(|(_, found)| found.is_none());
        let others: Vec<u64> = others.map(|(address, _)| *address).collect();
        let mut native = self.native(&others).into_iter();
        let mut missing = || native.next().unwrap_or(Err(NoSymbol::NotCovered));
        go.into_iter().map(|found| found.map_or_else(&mut missing, Ok)).collect()
    }

    fn native(&mut self, sorted: &[u64]) -> Vec<Result<Symbolized, NoSymbol>> {
        if sorted.is_empty() {
            return Vec::new();
        }
        let hits = self.dwarf(sorted);
        let names = self.elf_names(sorted, &hits);
        hits.into_iter().zip(names).map(|(hit, name)| self.compose(hit, name)).collect()
    }

    fn dwarf(&mut self, sorted: &[u64]) -> Vec<Hit> {
        let Some(image) = self.symbols.dwarf_image() else {
            return sorted.iter().map(|_| Hit::default()).collect();
        };
        self.has_tables = true;
        let sections = dwarf::Sections::read(
            image,
            self.symbols.supplementary.as_deref(),
            &self.symbols.decompressed,
        );
        let package = self.package(image);
        let split = SplitFiles {
            package: package.as_deref().and_then(DwpFile::read),
            finder: self.access.map(|p| DwoFinder::new(p.files, image, p.path)),
        };
        let found = dwarf::resolve(&sections, split, sorted, &mut self.strings);
        self.losses.missing_split_units = found.missing_split;
        self.rejected.extend(found.rejected);
        self.losses.unreadable_sections = sections.unreadable;
        self.losses.broken_units = found.broken_units;
        self.losses.limit_reached |= found.exhausted;
        found.hits
    }

    /// Opens the `.dwp` file of a program, beside it or beside its debug file. It is not checked to
    /// belong to the program, since each unit is looked up by its id.
    fn package(&self, dwarf: &ElfImage) -> Option<Arc<ElfImage>> {
        let access = self.access?;
        // Split units need this section. (clang also writes it for others.)
        dwarf.section(".debug_addr")?;
        let debug = self.symbols.debug_path.as_deref();
        [Some(access.path), debug].into_iter().flatten().find_map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dwp");
            let file = access.files.open(Path::new(&name)).ok()?;
            let package = access.files.map(&file).inspect(|p| p.share_budget_of(dwarf));
            tracing::debug!(path = ?name, usable = package.is_ok(), "opened a .dwp file");
            package.ok()
        })
    }

    /// Looks up names in all symbol tables, best first, and of PLT stubs.
    fn elf_names(&mut self, sorted: &[u64], hits: &[Hit]) -> Vec<Option<ElfName>> {
        let mut names: Vec<Option<ElfName>> = sorted.iter().map(|_| None).collect();
        let image = &*self.symbols.image;
        let debug = self.symbols.debug.as_deref();
        let any_open = (0..sorted.len()).any(|i| needs_elf_name(&hits[i]));
        let mini = any_open.then(|| self.mini_debug_info()).flatten();
        let tables = [
            (Some(image), SHT_SYMTAB, NameSource::Symtab),
            (debug, SHT_SYMTAB, NameSource::Symtab),
            (mini, SHT_SYMTAB, NameSource::MiniDebugInfo),
            (Some(image), SHT_DYNSYM, NameSource::Dynsym),
        ];
        for (file, kind, source) in tables {
            let Some(file) = file else { continue };
            // Where DWARF has the linkage name, none is needed.
            let open: Vec<usize> = (0..sorted.len())
                .filter(|&i| names[i].is_none() && needs_elf_name(&hits[i]))
                .collect();
            let wanted: Vec<u64> = open.iter().map(|&i| sorted[i]).collect();
            let preferred: Vec<Option<&str>> = open
                .iter()
                .map(|&i| hits[i].frames.last().and_then(|c| c.function.name.as_deref()))
                .collect();
            let found = symtab::resolve((image, file.bytes()), kind, &wanted, &preferred);
            self.has_tables |= found.has_functions;
            self.losses.limit_reached |= found.cut;
            for (&i, hit) in open.iter().zip(found.hits) {
                names[i] = hit.and_then(|SymbolHit { name, start }| {
                    let name = self.strings.intern(&name)?;
                    Some(ElfName { name, start, source })
                });
            }
        }
        let open: Vec<usize> = (0..sorted.len())
            .filter(|&i| names[i].is_none() && hits[i].frames.is_empty())
            .collect();
        let wanted: Vec<u64> = open.iter().map(|&i| sorted[i]).collect();
        for (&i, stub) in open.iter().zip(plt::resolve(image, &wanted)) {
            names[i] = stub.and_then(|s| {
                let name = self.strings.intern(&s.name)?;
                Some(ElfName { name, start: s.start, source: NameSource::Plt })
            });
        }
        names
    }

    /// MiniDebugInfo, if there is no full symbol table: decompressing it takes milliseconds.
    fn mini_debug_info(&mut self) -> Option<&'s ElfImage> {
        let symbols = self.symbols;
        let full = |i: &ElfImage| i.section(".symtab").is_some_and(|s| !s.data.is_empty());
        if full(&symbols.image) || symbols.debug.as_deref().is_some_and(full) {
            return None;
        }
        match symbols.mini.get_or_init(|| minidebug::read(&symbols.image)) {
            MiniDebug::Found(mini) => Some(mini),
            MiniDebug::Absent => None,
            MiniDebug::Unreadable => {
                self.losses.unreadable_sections += 1;
                None
            }
        }
    }

    fn compose(&mut self, mut hit: Hit, elf: Option<ElfName>) -> Result<Symbolized, NoSymbol> {
        let Some(physical) = hit.frames.pop() else {
            let Some(elf) = elf else { return Err(self.absence(&hit)) };
            let location = hit.line_only.unwrap_or_default();
            let name = self.shown(&elf.name, elf.source);
            let frame = frame(name, elf.name, location, None);
            let start = Svma(elf.start);
            return Ok(Symbolized {
                frames: vec![frame],
                start,
                source: elf.source,
                wrapper: false,
            });
        };
        let mut frames = Vec::with_capacity(hit.frames.len() + 1);
        for call in hit.frames {
            match self.inlined(call) {
                Some(frame) => frames.push(frame),
                None => self.losses.nameless_inlines += 1,
            }
        }
        let DwarfFrame { function, location } = physical;
        let (name, system_name, source) = match (function.linkage_name, function.name, elf) {
            (Some(linkage), name, _) => (self.linked(&linkage, name), linkage, NameSource::Dwarf),
            (None, Some(name), elf) => self.without_linkage_name(name, elf),
            (None, None, Some(elf)) => (self.shown(&elf.name, elf.source), elf.name, elf.source),
            (None, None, None) => return Err(NoSymbol::LineOnly),
        };
        frames.push(frame(name, system_name, location, function.decl_line));
        Ok(Symbolized { frames, start: Svma(hit.begin), source, wrapper: false })
    }

    /// The names (to display, of the system) of a function without a linkage name. In C and
    /// assembly the name in DWARF is the symbol, apart from suffixes of variants. In C++ (lambdas,
    /// anonymous namespaces) only the symbol has the enclosing scope.
    fn without_linkage_name(
        &mut self,
        name: Arc<str>,
        elf: Option<ElfName>,
    ) -> (Arc<str>, Arc<str>, NameSource) {
        match elf {
            Some(e) if is_mangled(&e.name) => {
                (self.shown(&e.name, e.source), e.name, NameSource::Dwarf)
            }
            Some(e) => (name, e.name, NameSource::Dwarf),
            None => (Arc::clone(&name), name, NameSource::Dwarf),
        }
    }

    fn inlined(&mut self, call: DwarfFrame) -> Option<Frame> {
        let DwarfFrame { function, location } = call;
        let (name, system_name) = match (function.linkage_name, function.name) {
            (Some(linkage), name) => (self.linked(&linkage, name), linkage),
            (None, Some(name)) => (Arc::clone(&name), name),
            (None, None) => return None,
        };
        Some(frame(name, system_name, location, function.decl_line))
    }

    /// The displayed name of a function with a linkage name. If that is not mangled, as with an asm
    /// label in C (`__GI___read` for `__read`), the other name is the one in the source.
    fn linked(&mut self, linkage: &Arc<str>, name: Option<Arc<str>>) -> Arc<str> {
        match name {
            Some(name) if !is_mangled(linkage) => name,
            _ => self.shown(linkage, NameSource::Dwarf),
        }
    }

    fn shown(&mut self, mangled: &Arc<str>, source: NameSource) -> Arc<str> {
        if let Some(known) = self.shown.get(mangled) {
            return Arc::clone(known);
        }
        let Some(left) = self.demangling.checked_sub(mangled.len()) else {
            self.losses.limit_reached = true;
            return Arc::clone(mangled);
        };
        self.demangling = left;
        let name = match source {
            // `@plt` is not a symbol version.
            NameSource::Plt => {
                let (symbol, suffix) = mangled.split_at(mangled.len() - "@plt".len());
                format!("{}{suffix}", demangle(symbol)).into()
            }
            _ => demangle(mangled),
        };
        let name = self.strings.intern(&name).unwrap_or_else(|| Arc::clone(mangled));
        self.shown.insert(Arc::clone(mangled), Arc::clone(&name));
        name
    }

    fn absence(&self, hit: &Hit) -> NoSymbol {
        if self.losses.limit_reached || self.strings.is_full() {
            NoSymbol::Limit
        } else if hit.line_only.is_some() {
            NoSymbol::LineOnly
        } else if self.has_tables {
            NoSymbol::NotCovered
        } else {
            NoSymbol::NoTables
        }
    }
}

fn is_mangled(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("_R")
}

fn needs_elf_name(hit: &Hit) -> bool {
    hit.frames.last().is_none_or(|physical| physical.function.linkage_name.is_none())
}

fn frame(
    name: Arc<str>,
    system_name: Arc<str>,
    location: Location,
    start_line: Option<u32>,
) -> Frame {
    let Location { file, line, column } = location;
    Frame { name, system_name, file, line, column, start_line }
}

//! Go's line table: functions, files, lines, inlining and stack depths of Go code, in every Go
//! program, stripped or not.
//!
//! The linker writes the table for the runtime itself, which needs it to unwind stacks. Layout:
//! Go's runtime/symtab.go and cmd/link/internal/ld/pcln.go.
//!
//! ```text
//!  pcHeader ─► funcnametab   NUL-terminated names
//!              cutab         per compilation unit: offsets into filetab
//!              filetab       NUL-terminated paths
//!              pctab         pc-value tables: (Δvalue, Δpc) pairs from a function's entry on
//!              pclntable     functab: (entry, record)…, then the records (`runtime._func`)
//!                                       │ pcsp, pcfile, pcln, pcdata[…] → pctab
//!                                       └ funcdata[3] → moduledata.gofunc + offset: inline tree
//! ```
//!
//! Everything here comes from the target's file or memory: each offset is checked against the
//! bytes that are there, and each loop has a bound of ours.

mod buildinfo;
mod function;
mod header;
mod inline;
mod module;
mod name;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use image::{Avma, ElfImage, Memory, Svma, Unreadable};

pub use buildinfo::GoVersion;
pub use function::{Function, FunctionFlags, PcValue};
pub use header::Format;
pub use inline::{Frame, Frames, SpecialFunctions};
pub use module::{ModuleData, gofunc_offset};
pub use name::printed_name;

use header::{Header, u64_at};

/// The largest table that is read from memory; that of a 700 MB Kubernetes binary is 60 MB.
const MAX_TABLE: u64 = 1 << 30;
/// The inline trees of that binary take 8 MB.
const MAX_INLINE_TREES: u64 = 256 << 20;

/// Why there is no line table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    /// The image has none: no Go program, or one that hides it.
    #[error("no Go line table in the image")]
    Absent,
    /// It ends before its header does.
    #[error("the Go line table is cut off")]
    Truncated,
    /// A format that is not known: older than Go 1.16, or newer than this profiler.
    #[error("unknown Go line table format (magic {0:#x})")]
    Magic(u32),
    /// The header contradicts itself.
    #[error("the Go line table's header is damaged: {0}")]
    Header(&'static str),
    /// The address of the Go code could not be established.
    #[error("the Go module's text was not found")]
    NoText,
    /// A part of it could not be read from memory.
    #[error("the Go line table: {0}")]
    Unreadable(#[from] Unreadable),
}

/// Bytes of the file, or read from memory.
#[derive(Debug, Clone)]
enum Bytes {
    Image(Arc<ElfImage>, Range<usize>),
    Owned(Arc<[u8]>),
}

impl Bytes {
    fn of_image(image: &Arc<ElfImage>, part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(image.bytes().as_ptr() as usize);
        Self::Image(image.clone(), start..start.saturating_add(part.len()))
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Image(image, range) => image.bytes().get(range.clone()).unwrap_or_default(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A Go module's line table.
///
/// Addresses are stated ones ([`Svma`]) for a table of a file. For one read from memory they are
/// those of the process, that is, stated ones under a bias of 0.
#[derive(Debug, Clone)]
pub struct LineTable {
    bytes: Bytes,
    header: Header,
    address: Svma,
    text: Svma,
    module: Option<ModuleData>,
    /// From `gofunc` on; `None` where it was not found: then inlined calls stay hidden.
    gofunc: Option<Bytes>,
    special: OnceLock<SpecialFunctions>,
}

/// Whether the image says of itself that it holds Go code: cheaper than looking for the table in
/// one that does not.
#[must_use]
pub fn is_go(image: &ElfImage) -> bool {
    [".gopclntab", ".data.rel.ro.gopclntab", ".go.buildinfo"]
        .iter()
        .any(|name| image.section(name).is_some())
}

impl LineTable {
    /// Finds and checks the table of an image, by section name or by its magic number.
    ///
    /// # Errors
    /// [`PclntabError::Absent`] for an image without Go code; the others for a damaged one.
    pub fn from_image(image: &Arc<ElfImage>) -> Result<Self, PclntabError> {
        let (address, data) = module::find_table(image).ok_or(PclntabError::Absent)?;
        let header = Header::parse(data)?;
        let version = GoVersion::of_image(image);
        let module = module::find_module(image, address, &header, version.as_ref());
        let text = module
            .map(|m| m.text)
            .or_else(|| (header.text_start != 0).then_some(Svma(header.text_start)))
            .or_else(|| (header.format == Format::Go116).then_some(Svma(0)))
            .ok_or(PclntabError::NoText)?;
        let gofunc = match header.format {
            // FUNCDATA holds addresses, not offsets: see Function::funcdata.
            Format::Go116 => None,
            _ => module.and_then(|m| image.bytes_at(m.gofunc?)).map(|b| Bytes::of_image(image, b)),
        };
        let bytes = Bytes::of_image(image, data);
        Ok(Self { bytes, header, address, text, module, gofunc, special: OnceLock::new() })
    }

    /// Reads the table of the module whose `runtime.moduledata` lies at `module`, for a target
    /// whose file cannot be had. `gofunc_offset` as of [`gofunc_offset`]; Go 1.18 and later.
    ///
    /// # Errors
    /// [`PclntabError`] when a part cannot be read, or what was read is no table.
    pub fn read(
        memory: &dyn Memory,
        module: Avma,
        gofunc_offset: Option<u64>,
    ) -> Result<Self, PclntabError> {
        let word = |offset: u64| memory.read_u64(module.wrapping_add(offset));
        let start = word(0)?;
        // The slices {address, length, capacity} from funcnametab to ftab (runtime/symtab.go).
        let mut end = start;
        for (slice, item) in [(8, 1), (32, 4), (56, 1), (80, 1), (104, 1), (128, 8)] {
            let size = word(slice + 8)?.checked_mul(item);
            end = end.max(size.and_then(|s| word(slice).ok()?.checked_add(s)).unwrap_or(0));
        }
        let bytes = read_range(memory, start, end, MAX_TABLE)?;
        let header = Header::parse(&bytes)?;
        if header.format == Format::Go116 {
            return Err(PclntabError::Magic(0xffff_fffa));
        }
        let (text, text_end) = (Svma(word(module::TEXT)?), Svma(word(module::ETEXT)?));
        let gofunc_at = gofunc_offset.map(word).transpose()?.map(Svma);
        let mut table = Self {
            bytes: Bytes::Owned(bytes.into()),
            header,
            address: Svma(start),
            text,
            module: Some(ModuleData { address: Svma(module.0), text, text_end, gofunc: gofunc_at }),
            gofunc: None,
            special: OnceLock::new(),
        };
        if let Some(base) = gofunc_at {
            let size = table.inline_trees_size().min(MAX_INLINE_TREES);
            // Without them, functions and lines are still right.
            let trees = read_range(memory, base.0, base.0.wrapping_add(size), MAX_INLINE_TREES);
            table.gofunc = trees.ok().map(|b| Bytes::Owned(b.into()));
        }
        Ok(table)
    }

    /// Where the last inline tree ends, from `gofunc` on.
    fn inline_trees_size(&self) -> u64 {
        let last = self.functions().filter_map(|f| f.inline_tree_offset()).max().unwrap_or(0);
        // A tree has no length; one of 1,000 calls is long.
        u64::from(last) + 64 * 1024
    }

    /// The format of the records.
    #[must_use]
    pub fn format(&self) -> Format {
        self.header.format
    }

    /// The address of the table itself (`runtime.pcHeader`).
    #[must_use]
    pub fn address(&self) -> Svma {
        self.address
    }

    /// What offsets of functions count from.
    #[must_use]
    pub fn text(&self) -> Svma {
        self.text
    }

    /// The module's own description, where it was found in the file.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleData> {
        self.module.as_ref()
    }

    /// The address of `funcnametab`, by which a moduledata is recognised in memory.
    #[must_use]
    pub fn names_address(&self) -> Svma {
        self.address.wrapping_add(self.header.funcname as u64)
    }

    /// Whether inlined calls can be told: their trees were found.
    #[must_use]
    pub fn has_inline_trees(&self) -> bool {
        self.gofunc.is_some()
    }

    /// How many functions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.function_count
    }

    /// Whether there are none: never, in a table that was accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.function_count == 0
    }

    /// All functions by address.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        (0..self.len()).filter_map(|i| Function::at(self, i))
    }

    /// The first function of that name. Looks at each, so keep the answer.
    #[must_use]
    pub fn function_named(&self, name: &str) -> Option<Function<'_>> {
        self.functions().find(|f| f.has_name(name))
    }

    /// The function whose code holds `pc`.
    #[must_use]
    pub fn function_at(&self, pc: Svma) -> Option<Function<'_>> {
        let last = self.entry(self.len())?;
        if pc < self.entry(0)? || pc >= last {
            return None;
        }
        let (mut low, mut high) = (0, self.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.entry(middle)? <= pc { low = middle } else { high = middle }
        }
        Function::at(self, low)
    }

    /// The entry of function `index`; of the one past the last, the end of the text.
    fn entry(&self, index: usize) -> Option<Svma> {
        let at = self.header.pcln + index * self.header.functab_entry_size();
        match self.header.format {
            Format::Go116 => u64_at(self.data(), at).map(Svma),
            _ => self.text.checked_add(u64::from(header::u32_at(self.data(), at)?)),
        }
    }

    fn data(&self) -> &[u8] {
        self.bytes.get()
    }

    /// The ids of the functions that the runtime treats differently, read off the table itself,
    /// since they are renumbered from version to version.
    pub fn special(&self) -> &SpecialFunctions {
        self.special.get_or_init(|| SpecialFunctions::of(self))
    }
}

fn read_range(
    memory: &dyn Memory,
    start: u64,
    end: u64,
    most: u64,
) -> Result<Vec<u8>, PclntabError> {
    let size = end.checked_sub(start).filter(|s| *s <= most).ok_or(PclntabError::Truncated)?;
    let size = usize::try_from(size).map_err(|_| PclntabError::Truncated)?;
    // Proves that the range exists before memory is set aside for it.
    memory.read(Avma(end.saturating_sub(1)), &mut [0])?;
    let mut bytes = vec![0; size];
    memory.read(Avma(start), &mut bytes)?;
    Ok(bytes)
}

//! Reads Go's line table (`.gopclntab`): the functions, files, lines, inlined calls and stack
//! depths of Go code. Every Go program has one, stripped or not.
//!
//! ```
//! use std::sync::Arc;
//!
//! use gopclntab::{GoVersion, LineTable, PclntabError};
//! use image::ElfImage;
//!
//! let program = Arc::new(ElfImage::open(&std::fs::File::open("/proc/self/exe")?)?);
//! match LineTable::from_image(&program) {
//!     Ok(table) => {
//!         let main = table.function_named("main.main").expect("a Go program has one");
//!         for frame in main.frames(main.entry()) {
//!             println!("{} at {:?}", frame.function, frame.position);
//!         }
//!         println!("built by {:?}", GoVersion::of_image(&program));
//!     }
//!     Err(error) => assert_eq!(error, PclntabError::Absent), // this test is a Rust program
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The linker writes the table for Go's own runtime, which unwinds stacks with it. The layout is
//! that of Go's runtime/symtab.go and cmd/link/internal/ld/pcln.go:
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
//! The table comes from the target's file or memory, which may be hostile: every offset is
//! checked against the available bytes, and every loop is bounded.

#![deny(clippy::print_stderr, clippy::print_stdout)]
// Numbers come from files that anybody can write.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

mod buildinfo;
mod error;
mod function;
mod header;
mod inline;
mod module;
mod name;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use image::{Avma, ElfImage, Memory, Svma};

pub use buildinfo::GoVersion;
pub use error::PclntabError;
pub use function::{Function, FunctionFlags, PcValue};
pub use header::Format;
pub use inline::{Frame, Frames, SpecialFunctions};
pub use module::{ModuleData, gofunc_offset};
pub use name::printed_name;

use header::{Header, u64_at};

/// The largest table that is read from memory, in bytes. A 700 MB Kubernetes binary has 60 MB.
const MAX_TABLE: u64 = 1 << 30;
/// The largest set of inline trees, in bytes. The same binary has 8 MB.
const MAX_INLINE_TREES: u64 = 256 << 20;

/// A range of the file, or bytes that were copied from memory.
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
/// Addresses are [`Svma`]s. For a table that was read from memory ([`LineTable::read`]) they equal
/// the addresses in the process, as if the bias were 0.
#[derive(Debug, Clone)]
pub struct LineTable {
    bytes: Bytes,
    header: Header,
    address: Svma,
    text: Svma,
    module: Option<ModuleData>,
    /// The bytes from `moduledata.gofunc` on. Without them inlined calls are not found.
    gofunc: Option<Bytes>,
    special: OnceLock<SpecialFunctions>,
}

/// Whether the image has a section that only Go's linker writes. Much cheaper than
/// [`LineTable::from_image`] for images without Go code.
#[must_use]
pub fn is_go(image: &ElfImage) -> bool {
    [".gopclntab", ".data.rel.ro.gopclntab", ".go.buildinfo"]
        .iter()
        .any(|name| image.section(name).is_some())
}

impl LineTable {
    /// Finds the table of an image by section name or magic number, and checks its header.
    ///
    /// # Errors
    /// [`PclntabError::Absent`] for an image without Go code, another variant for a damaged table.
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
            // FUNCDATA holds addresses instead of offsets: see Function::funcdata.
            Format::Go116 => None,
            _ => module.and_then(|m| image.bytes_at(m.gofunc?)).map(|b| Bytes::of_image(image, b)),
        };
        let bytes = Bytes::of_image(image, data);
        Ok(Self { bytes, header, address, text, module, gofunc, special: OnceLock::new() })
    }

    /// Copies the table from the memory of a process whose file is not available. `module` is the
    /// address of `runtime.moduledata`, and `gofunc_offset` that of its field `gofunc` as returned
    /// by [`gofunc_offset`]. Requires Go 1.18 or later.
    ///
    /// # Errors
    /// [`PclntabError`] if a part cannot be read or is not a valid table.
    pub fn read(
        memory: &dyn Memory,
        module: Avma,
        gofunc_offset: Option<u64>,
    ) -> Result<Self, PclntabError> {
        let word = |offset: u64| memory.read_u64(module.wrapping_add(offset));
        let start = word(0)?;
        // Slices {address, length, capacity}, from funcnametab to ftab (runtime/symtab.go).
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
            // Functions and lines are correct without the inline trees too.
            let trees = read_range(memory, base.0, base.0.wrapping_add(size), MAX_INLINE_TREES);
            table.gofunc = trees.ok().map(|b| Bytes::Owned(b.into()));
        }
        Ok(table)
    }

    /// The offset from `gofunc` at which the last inline tree ends.
    fn inline_trees_size(&self) -> u64 {
        let last = self.functions().filter_map(|f| f.inline_tree_offset()).max().unwrap_or(0);
        // The table does not state the length of a tree; 1,000 calls take 16 KiB.
        u64::from(last) + 64 * 1024
    }

    /// The format of the function records.
    #[must_use]
    pub fn format(&self) -> Format {
        self.header.format
    }

    /// The address of the table (`runtime.pcHeader`).
    #[must_use]
    pub fn address(&self) -> Svma {
        self.address
    }

    /// The base address of function offsets (`moduledata.text`).
    #[must_use]
    pub fn text(&self) -> Svma {
        self.text
    }

    /// The `runtime.moduledata` of this table, if it was found in the file.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleData> {
        self.module.as_ref()
    }

    /// The address of `funcnametab`: the second word of the `moduledata`, after [`Self::address`].
    #[must_use]
    pub fn names_address(&self) -> Svma {
        self.address.wrapping_add(self.header.funcname as u64)
    }

    /// Whether the inline trees were found, so that [`Function::frames`] lists inlined calls.
    #[must_use]
    pub fn has_inline_trees(&self) -> bool {
        self.gofunc.is_some()
    }

    /// The number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.function_count
    }

    /// Always false: a table without functions is rejected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.function_count == 0
    }

    /// All functions, sorted by address.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        (0..self.len()).filter_map(|i| Function::at(self, i))
    }

    /// The first function with this full name. Scans all functions.
    #[must_use]
    pub fn function_named(&self, name: &str) -> Option<Function<'_>> {
        self.functions().find(|f| f.has_name(name))
    }

    /// The function whose code contains `pc`, by binary search.
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

    /// The entry of function `index`. Index `len()` gives the end of the text.
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

    /// The ids of the functions that the runtime treats specially. They are looked up by name
    /// once, because Go renumbers them between versions.
    pub fn special(&self) -> &SpecialFunctions {
        self.special.get_or_init(|| SpecialFunctions::of(self))
    }
}

fn read_range(
    memory: &dyn Memory,
    start: u64,
    end: u64,
    max: u64,
) -> Result<Vec<u8>, PclntabError> {
    let size = end.checked_sub(start).filter(|s| *s <= max).ok_or(PclntabError::Truncated)?;
    let size = usize::try_from(size).map_err(|_| PclntabError::Truncated)?;
    // Check that the range exists before allocating a buffer for it.
    memory.read(Avma(end.saturating_sub(1)), &mut [0])?;
    let mut bytes = vec![0; size];
    memory.read(Avma(start), &mut bytes)?;
    Ok(bytes)
}

//! Finds the call frame information (CFI) of an address in an image.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use gimli::{
    BaseAddresses, CieOrFde, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry, LittleEndian,
    UnwindOffset, UnwindSection,
};
use gopclntab::LineTable;
use image::{ElfImage, Section, SectionReader, Svma};

pub(crate) type Reader<'a> = EndianSlice<'a, LittleEndian>;
pub(crate) type Fde<'a> = FrameDescriptionEntry<Reader<'a>>;

/// Limit of entries in an index that is built here, which takes 24 MiB then. Larger sections come
/// with a search table.
const MAX_ENTRIES: usize = 1 << 20;
/// Limit of a decompressed `.debug_frame`, in bytes.
const MAX_DECOMPRESSED: u64 = 64 << 20;
/// Limit of symbols that are searched; no program has as many.
const MAX_SYMBOLS: usize = 8 << 20;
/// Limit of the size of an entry, in bytes; real ones take up to some tens of KiB.
const MAX_ENTRY: usize = 64 << 10;

/// The unwind tables of an image and how they are searched.
pub(crate) struct ImageCfi {
    image: Arc<ElfImage>,
    bases: BaseAddresses,
    eh_frame: Option<Table>,
    debug_frame: Option<Table>,
    /// Go's line table, which gives the depth of the stack at every instruction.
    go: Option<LineTable>,
    /// See [`ImageCfi::is_builtin`].
    builtins: OnceCell<Range<u64>>,
}

struct Table {
    bytes: TableBytes,
    search: Search,
}

impl Table {
    /// How it is searched, for logs.
    fn kind(&self) -> String {
        match &self.search {
            Search::Header { table, .. } => format!("header of {} entries", table.len() / 8),
            Search::Index(entries) => format!("index of {} entries", entries.len()),
        }
    }
}

enum TableBytes {
    File(Range<usize>),
    Decompressed(Vec<u8>),
}

enum Search {
    /// `.eh_frame_hdr`'s sorted table: pairs of 32-bit offsets from the header's address.
    Header { hdr: Svma, eh_frame: Svma, table: Range<usize> },
    /// Built from all entries, sorted by start.
    Index(Vec<IndexEntry>),
}

#[derive(Clone, Copy)]
struct IndexEntry {
    start: u64,
    end: u64,
    offset: usize,
}

/// The result of looking up an address.
pub(crate) enum Lookup<T> {
    /// The result of `use_entry` for the entry that covers the address.
    Found(T),
    /// No entry covers the address.
    None,
    /// The entry that covers the address is damaged or too large.
    Bad,
}

/// The address range of V8's builtins, which are contiguous; see [`ImageCfi::is_builtin`].
fn builtins(image: &ElfImage) -> Range<u64> {
    const NONE: Range<u64> = 0..0;
    const FUNCTION: u8 = 2;
    let (Some(symbols), Some(names)) = (image.section(".symtab"), image.section(".strtab")) else {
        return NONE;
    };
    let word = |row: &[u8], at: usize| row[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let mut all: Option<Range<u64>> = None;
    // st_name, st_info, st_other, st_shndx, st_value, st_size (elf(5)).
    for row in symbols.data.chunks_exact(24).take(MAX_SYMBOLS) {
        let name = word(row, 0) & u64::from(u32::MAX);
        let name = usize::try_from(name).ok().and_then(|at| names.data.get(at..));
        if row[4] & 15 != FUNCTION || !name.is_some_and(|n| n.starts_with(b"Builtins_")) {
            continue;
        }
        let (start, end) = (word(row, 8), word(row, 8).saturating_add(word(row, 16)));
        let all = all.get_or_insert(start..end);
        (all.start, all.end) = (all.start.min(start), all.end.max(end));
    }
    all.unwrap_or(NONE)
}

impl ImageCfi {
    pub(crate) fn new(image: Arc<ElfImage>, vendor: gimli::Vendor) -> Self {
        let mut bases = BaseAddresses::default();
        if let Some(text) = image.section(".text") {
            bases = bases.set_text(text.svma.0);
        }
        if let Some(got) = image.section(".got") {
            bases = bases.set_got(got.svma.0);
        }
        let mut cfi = Self {
            bases,
            eh_frame: None,
            debug_frame: None,
            go: gopclntab::is_go(&image).then(|| LineTable::from_image(&image).ok()).flatten(),
            image,
            builtins: OnceCell::new(),
        };
        cfi.load_eh_frame(vendor);
        cfi.load_debug_frame(vendor);
        tracing::debug!(
            build_id = cfi.image.build_id_hex(),
            eh_frame = ?cfi.eh_frame.as_ref().map(Table::kind),
            debug_frame = ?cfi.debug_frame.as_ref().map(Table::kind),
            go = cfi.is_go(),
            "loaded unwind tables"
        );
        cfi
    }

    /// Whether the image has a Go line table.
    pub(crate) fn is_go(&self) -> bool {
        self.go.is_some()
    }

    /// Whether the image has any call frame information.
    pub(crate) fn has_tables(&self) -> bool {
        self.eh_frame.is_some() || self.debug_frame.is_some()
    }

    /// Whether code without an entry is assumed to keep frame pointers.
    pub(crate) fn keeps_frame_pointers(&self) -> bool {
        // Go functions always keep the frame pointer.
        self.is_go() || !self.has_tables()
    }

    /// Whether the address is in one of V8's builtins. V8's JIT compiles them when the program is
    /// built: like all its code they keep frame pointers and have no entries. They are only
    /// recognized by their names.
    pub(crate) fn is_builtin(&self, svma: Svma) -> bool {
        self.builtins.get_or_init(|| builtins(&self.image)).contains(&svma.0)
    }

    /// The Go function at an address.
    pub(crate) fn go_function(&self, svma: Svma) -> Option<gopclntab::Function<'_>> {
        self.go.as_ref()?.function_at(svma)
    }

    /// The image.
    pub(crate) fn image(&self) -> &Arc<ElfImage> {
        &self.image
    }

    pub(crate) fn bases(&self) -> &BaseAddresses {
        &self.bases
    }

    /// Calls `use_entry` with the entry for an address, from `.eh_frame` or else from
    /// `.debug_frame`.
    pub(crate) fn with_fde<T>(
        &self,
        svma: Svma,
        vendor: gimli::Vendor,
        mut use_entry: impl FnMut(&Fde<'_>, Frames<'_>) -> Option<T>,
    ) -> Lookup<T> {
        if let Some(table) = &self.eh_frame {
            let section = eh_frame_of(self.bytes(table), vendor);
            match self.entry(table, &section, svma) {
                Lookup::Found(fde) => return found(use_entry(&fde, Frames::Eh(&section))),
                Lookup::Bad => return Lookup::Bad,
                Lookup::None => {}
            }
        }
        let Some(table) = &self.debug_frame else { return Lookup::None };
        let section = debug_frame_of(self.bytes(table), vendor);
        match self.entry(table, &section, svma) {
            Lookup::Found(fde) => found(use_entry(&fde, Frames::Debug(&section))),
            Lookup::Bad => Lookup::Bad,
            Lookup::None => Lookup::None,
        }
    }

    /// Whether an entry begins at exactly this address.
    pub(crate) fn begins_function(&self, svma: Svma, vendor: gimli::Vendor) -> bool {
        let begins = |fde: &Fde<'_>, _: Frames<'_>| Some(fde.initial_address() == svma.0);
        matches!(self.with_fde(svma, vendor, begins), Lookup::Found(true))
    }

    /// The start of the function at an address.
    fn function_start(&self, svma: Svma, vendor: gimli::Vendor) -> Option<Svma> {
        let start = |fde: &Fde<'_>, _: Frames<'_>| Some(Svma(fde.initial_address()));
        match self.with_fde(svma, vendor, start) {
            Lookup::Found(start) => Some(start),
            Lookup::None | Lookup::Bad => None,
        }
    }

    fn entry<'a, S>(&self, table: &Table, section: &S, svma: Svma) -> Lookup<Fde<'a>>
    where
        S: UnwindSection<Reader<'a>>,
        S::Offset: UnwindOffset<usize>,
    {
        let Some(offset) = self.search(&table.search, svma) else { return Lookup::None };
        let fde = section.fde_from_offset(&self.bases, offset.into(), S::cie_from_offset);
        match fde {
            Ok(fde) if !covers(&fde, svma) => Lookup::None,
            Ok(fde) if fde.entry_len() > MAX_ENTRY || fde.cie().entry_len() > MAX_ENTRY => {
                Lookup::Bad
            }
            Ok(fde) => Lookup::Found(fde),
            Err(_) => Lookup::Bad,
        }
    }

    fn bytes<'a>(&'a self, table: &'a Table) -> &'a [u8] {
        match &table.bytes {
            TableBytes::File(range) => self.image.bytes().get(range.clone()).unwrap_or_default(),
            TableBytes::Decompressed(bytes) => bytes,
        }
    }

    fn search(&self, search: &Search, svma: Svma) -> Option<usize> {
        match search {
            Search::Index(entries) => {
                let after = entries.partition_point(|e| e.start <= svma.0);
                let entry = entries.get(after.checked_sub(1)?)?;
                (svma.0 < entry.end).then_some(entry.offset)
            }
            Search::Header { hdr, eh_frame, table } => {
                let rows = self.image.bytes().get(table.clone())?.as_chunks::<8>().0;
                let after = rows.partition_point(|row| header_address(*hdr, row, 0) <= svma);
                let row = rows.get(after.checked_sub(1)?)?;
                let fde = header_address(*hdr, row, 4);
                usize::try_from(fde.0.checked_sub(eh_frame.0)?).ok()
            }
        }
    }

    fn load_eh_frame(&mut self, vendor: gimli::Vendor) {
        let image = Arc::clone(&self.image);
        let hdr = image.eh_frame_hdr().or_else(|| image.section(".eh_frame_hdr"));
        if let Some(hdr) = &hdr {
            self.bases = std::mem::take(&mut self.bases).set_eh_frame_hdr(hdr.svma.0);
        }
        let by_name = image.section(".eh_frame").filter(|s| !s.data.is_empty() && !s.compressed);
        let by_header = || {
            let svma = eh_frame_address(hdr.as_ref()?)?;
            let data = image.bytes_at(svma)?;
            Some(Section { svma, data, size: data.len() as u64, compressed: false })
        };
        let Some(section) = by_name.or_else(by_header) else { return };
        self.bases = std::mem::take(&mut self.bases).set_eh_frame(section.svma.0);
        let Some(range) = range_in(image.bytes(), section.data) else { return };
        let search = hdr.and_then(|hdr| search_table(&image, &hdr, section.svma));
        let search = search.unwrap_or_else(|| {
            Search::Index(index(&eh_frame_of(section.data, vendor), &self.bases))
        });
        self.eh_frame = Some(Table { bytes: TableBytes::File(range), search });
    }

    fn load_debug_frame(&mut self, vendor: gimli::Vendor) {
        let image = Arc::clone(&self.image);
        let bytes = match SectionReader::new(&image, MAX_DECOMPRESSED).read(".debug_frame") {
            Cow::Owned(bytes) => Some(TableBytes::Decompressed(bytes)),
            Cow::Borrowed([]) => return,
            Cow::Borrowed(bytes) => range_in(image.bytes(), bytes).map(TableBytes::File),
        };
        let Some(bytes) = bytes else { return };
        let mut table = Table { bytes, search: Search::Index(Vec::new()) };
        let entries = index(&debug_frame_of(self.bytes(&table), vendor), &self.bases);
        if !entries.is_empty() {
            table.search = Search::Index(entries);
            self.debug_frame = Some(table);
        }
    }
}

/// The section that an entry is from.
#[derive(Clone, Copy)]
pub(crate) enum Frames<'a> {
    Eh(&'a EhFrame<Reader<'a>>),
    Debug(&'a DebugFrame<Reader<'a>>),
}

/// The starts of the functions that hold the addresses, according to the call frame information,
/// which stripped images keep. One result for each address; `None` if no entry covers it.
///
/// Each part of a function that the compiler split has a start of its own; all stubs of a procedure
/// linkage table count as one function.
#[must_use]
pub fn function_starts(image: &Arc<ElfImage>, addresses: &[Svma]) -> Vec<Option<Svma>> {
    let vendor = match image.arch() {
        image::Arch::X86_64 => gimli::Vendor::Default,
        image::Arch::Aarch64 => gimli::Vendor::AArch64,
    };
    let cfi = ImageCfi::new(Arc::clone(image), vendor);
    addresses.iter().map(|svma| cfi.function_start(*svma, vendor)).collect()
}

fn found<T>(used: Option<T>) -> Lookup<T> {
    used.map_or(Lookup::Bad, Lookup::Found)
}

fn covers(fde: &Fde<'_>, svma: Svma) -> bool {
    svma.0.checked_sub(fde.initial_address()).is_some_and(|into| into < fde.len())
}

fn eh_frame_of(data: &[u8], vendor: gimli::Vendor) -> EhFrame<Reader<'_>> {
    let mut section = EhFrame::new(data, LittleEndian);
    section.set_address_size(8);
    section.set_vendor(vendor);
    section
}

fn debug_frame_of(data: &[u8], vendor: gimli::Vendor) -> DebugFrame<Reader<'_>> {
    let mut section = DebugFrame::new(data, LittleEndian);
    section.set_address_size(8);
    section.set_vendor(vendor);
    section
}

fn range_in(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`, `DW_EH_PE_udata4`, `DW_EH_PE_datarel | DW_EH_PE_sdata4`:
/// what every linker writes (LSB 10.6.2). With another encoding the entries of `.eh_frame` are
/// indexed here.
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

fn eh_frame_address(hdr: &Section<'_>) -> Option<Svma> {
    let (head, rest) = hdr.data.split_first_chunk::<4>()?;
    let relative = i32::from_le_bytes(*rest.first_chunk::<4>()?);
    let place = hdr.svma.wrapping_add(4);
    (head[..2] == HEADER[..2]).then(|| place.wrapping_add(i64::from(relative).cast_unsigned()))
}

/// One address of a row of the search table: at 0 the start of the function, at 4 that of its
/// entry.
fn header_address(hdr: Svma, row: &[u8; 8], at: usize) -> Svma {
    let word = [row[at], row[at + 1], row[at + 2], row[at + 3]];
    hdr.wrapping_add(i64::from(i32::from_le_bytes(word)).cast_unsigned())
}

/// The search table of `.eh_frame_hdr`, if it is complete, sorted and not empty.
fn search_table(image: &ElfImage, hdr: &Section<'_>, eh_frame: Svma) -> Option<Search> {
    let rest = hdr.data.strip_prefix(&HEADER)?;
    if eh_frame_address(hdr)? != eh_frame {
        return None;
    }
    let count = usize::try_from(u32::from_le_bytes(*rest.get(4..)?.first_chunk()?)).ok()?;
    let table = rest.get(8..)?.get(..count.checked_mul(8)?)?;
    let rows = table.as_chunks::<8>().0;
    if rows.is_empty() || !rows.is_sorted_by_key(|row| header_address(hdr.svma, row, 0)) {
        return None;
    }
    Some(Search::Header { hdr: hdr.svma, eh_frame, table: range_in(image.bytes(), table)? })
}

/// Indexes all entries up to the first malformed one, after which no entry can be found.
fn index<'a, S>(section: &S, bases: &BaseAddresses) -> Vec<IndexEntry>
where
    S: UnwindSection<Reader<'a>>,
{
    let mut found = Vec::new();
    let mut entries = section.entries(bases);
    for _ in 0..MAX_ENTRIES {
        let Ok(Some(entry)) = entries.next() else { break };
        let CieOrFde::Fde(partial) = entry else { continue };
        let offset = partial.offset();
        let Ok(fde) = partial.parse(S::cie_from_offset) else { continue };
        let start = fde.initial_address();
        // A linker that drops a function leaves its entry at address 0 or -1.
        if let Some(end) = start.checked_add(fde.len()).filter(|_| start != 0) {
            found.push(IndexEntry { start, end, offset });
        }
    }
    found.sort_unstable_by_key(|e| (e.start, e.end));
    found.shrink_to_fit();
    found
}

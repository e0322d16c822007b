//! Finds the Go runtime of a mapped image and verifies its layout.

use std::sync::Arc;

use gopclntab::{GoVersion, LineTable, PclntabError, gofunc_offset};
use image::{Avma, Bias, ElfImage, Memory, StructCopy, Svma, Unreadable};

use crate::code::CodeReader;
use crate::goroutine::Status;
use crate::{Evidence, Layout, ReadError, Refusal, Source, Variable, WritePermit, symbols};

/// Bytes of a segment that are searched for the `moduledata`.
const MAX_SEARCH: u64 = 256 << 20;
const CHUNK: usize = 1 << 20;
/// Attempts to read plausible goroutines before the layout is called wrong.
const CHECKS: usize = 64;

/// Why no Go runtime was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The image is not a Go program.
    #[error("not a Go program")]
    NotGo,
    /// The image has Go code but does not state its version.
    #[error("the Go version of the program is unknown")]
    NoVersion,
    /// The layout of this version is not in the table, and could not be derived either.
    #[error(
        "{0} is not supported: the layout of its runtime is unknown (supported: Go 1.19, 1.21 to 1.27)"
    )]
    Unsupported(GoVersion),
    /// The line table is present but unusable.
    #[error(transparent)]
    LineTable(PclntabError),
    /// `runtime.firstmoduledata` was not found.
    #[error("runtime.firstmoduledata was not found in memory")]
    NoModule,
    /// The state that was found is inconsistent.
    #[error("unexpected data in the Go runtime: {0}")]
    Implausible(&'static str),
    /// Memory that the runtime requires cannot be read.
    #[error("cannot read the Go runtime: {0}")]
    Unreadable(#[from] Unreadable),
}

/// A Go runtime with known version, layout and variables.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) image: Arc<ElfImage>,
    pub(crate) bias: Bias,
    pub(crate) layout: Layout,
    pub(crate) table: LineTable,
    source: LayoutSource,
    version: GoVersion,
    module: Avma,
    evidence: Vec<Evidence>,
}

/// Where the field offsets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutSource {
    /// The table in `offsets.rs`, which was measured for this version.
    Measured,
    /// The program's own DWARF.
    Dwarf,
    /// The nearest measured version, by which the goroutines look plausible. Sufficient for
    /// reading, never for writing.
    Guessed,
}

impl Runtime {
    /// Finds the runtime of `image`, which is mapped with `bias` in `memory`.
    ///
    /// # Errors
    /// [`FindError`] if the image is not Go, its version is not supported or its state is
    /// implausible.
    pub fn find(image: &Arc<ElfImage>, bias: Bias, memory: &dyn Memory) -> Result<Self, FindError> {
        let table = LineTable::from_image(image).map_err(|e| match e {
            PclntabError::Absent => FindError::NotGo,
            other => FindError::LineTable(other),
        })?;
        let version = GoVersion::of_image(image).ok_or(FindError::NoVersion)?;
        let module = locate_module(image, bias, &table, memory)?;
        let evidence = collect_evidence(image, bias, &table);
        let attempt = |layout: Layout, source| {
            let (image, table) = (image.clone(), table.clone());
            let (version, evidence) = (version.clone(), evidence.clone());
            let runtime = Self { image, bias, layout, source, table, version, module, evidence };
            runtime.verified(memory)
        };
        if let Some(layout) = Layout::of_minor(version.minor) {
            return attempt(layout, LayoutSource::Measured);
        }
        let from_dwarf = Layout::of_dwarf(version.minor, image);
        let from_dwarf = from_dwarf.map(|layout| attempt(layout, LayoutSource::Dwarf));
        if let Some(Ok(runtime)) = from_dwarf {
            return Ok(runtime);
        }
        let guess = attempt(Layout::nearest(version.minor), LayoutSource::Guessed);
        guess.map_err(|_| FindError::Unsupported(version.clone()))
    }

    /// Returns the runtime if the state that it finds is plausible.
    fn verified(self, memory: &dyn Memory) -> Result<Self, FindError> {
        let Self { layout, bias, table, .. } = &self;
        let module = self.module;
        let text = Avma(memory.read_u64(module.wrapping_add(layout.module_text))?);
        if text != bias.to_avma(table.text()) {
            return Err(FindError::Implausible(
                "the text addresses in moduledata and in the line table differ",
            ));
        }
        let measured = self.source == LayoutSource::Measured;
        if measured && gofunc_offset(&self.version) != Some(layout.module_gofunc) {
            return Err(FindError::Implausible(
                "the offset of moduledata.gofunc differs between two tables",
            ));
        }
        self.check(memory)?;
        Ok(self)
    }

    /// Checks that the first goroutines are plausible, which detects a wrong layout. They change
    /// while they are read, so one plausible attempt is enough.
    fn check(&self, memory: &dyn Memory) -> Result<(), FindError> {
        let all = match self.goroutine_addresses(memory) {
            Ok(all) if !all.is_empty() => all,
            _ if self.source == LayoutSource::Measured => return Ok(()),
            _ => {
                return Err(FindError::Implausible("no goroutine was found to verify the layout"));
            }
        };
        let mut result = Ok(());
        for _ in 0..CHECKS {
            result = self.check_goroutines(memory, &all[..all.len().min(64)]);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn check_goroutines(&self, memory: &dyn Memory, all: &[Avma]) -> Result<(), FindError> {
        let layout = &self.layout;
        let mut ids = Vec::new();
        for at in all {
            let g = StructCopy::read(memory, *at, layout.g_size())?;
            // An unused `g` keeps the fields of its last goroutine.
            let Some(status) = Status::of(g.u32(layout.g_status)) else { continue };
            let id = g.u64(layout.g_goid);
            if matches!(status, Status::Other(_)) || id == 0 || ids.contains(&id) {
                return Err(FindError::Implausible("the status or id of a goroutine"));
            }
            ids.push(id);
            let (low, high) = (g.u64(0), g.u64(8));
            let sp = g.u64(layout.g_sched_sp);
            let parked = matches!(status, Status::Waiting | Status::Runnable);
            if low >= high || (parked && !(low..high).contains(&sp)) {
                return Err(FindError::Implausible("the stack of a goroutine"));
            }
            if self.source != LayoutSource::Measured && !self.starts_at_function(&g) {
                return Err(FindError::Implausible("the start function of a goroutine"));
            }
            let m = g.u64(layout.g_m);
            if status == Status::Syscall && m != 0 {
                let current = memory.read_u64(Avma(m).wrapping_add(layout.m_curg))?;
                if current != at.0 {
                    return Err(FindError::Implausible(
                        "a goroutine and its thread do not refer to each other",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether the goroutine starts at the entry of a function and was created within one.
    fn starts_at_function(&self, g: &StructCopy) -> bool {
        let at = |offset| self.bias.to_svma(Avma(g.u64(offset)));
        let (start, created) = (at(self.layout.g_startpc), at(self.layout.g_gopc));
        let starts = self.table.function_at(start).is_some_and(|f| f.entry() == start);
        // Assembly at the program's entry creates the first goroutine, `go` statements the others.
        starts && self.table.function_at(created).is_some()
    }

    /// Where the layout comes from, which determines how far it can be trusted.
    #[must_use]
    pub fn layout_source(&self) -> LayoutSource {
        self.source
    }

    /// The Go version of the program.
    #[must_use]
    pub fn version(&self) -> &GoVersion {
        &self.version
    }

    /// The field offsets in use.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The line table of the image. Its addresses are [`Svma`]s.
    #[must_use]
    pub fn line_table(&self) -> &LineTable {
        &self.table
    }

    /// The bias of the image.
    #[must_use]
    pub fn bias(&self) -> Bias {
        self.bias
    }

    /// The address of `runtime.firstmoduledata`.
    #[must_use]
    pub fn module_data(&self) -> Avma {
        self.module
    }

    /// What each source says about the address of a variable. `None` if no source names it.
    #[must_use]
    pub fn evidence(&self, variable: Variable) -> Option<&Evidence> {
        self.evidence.iter().find(|e| e.variable == variable)
    }

    /// The address to read a variable from.
    pub(crate) fn address(&self, variable: Variable) -> Result<Avma, ReadError> {
        let known = self.evidence(variable).and_then(Evidence::address);
        known.ok_or(ReadError::NoAddress(variable))
    }

    /// The address of a variable if two sources agree on it and no variable of the program is
    /// disputed. Code that was compiled differently (`-N -l`) may match the patterns by chance in
    /// two places, but not in all.
    pub(crate) fn agreed(&self, variable: Variable) -> Result<Avma, Refusal> {
        if self.source == LayoutSource::Guessed {
            return Err(Refusal::Guessed(self.version.text.clone()));
        }
        let disputed = |e: &Evidence| e.agreed().err().filter(Refusal::is_dispute);
        if let Some(refusal) = self.evidence.iter().find_map(disputed) {
            return Err(refusal);
        }
        self.evidence(variable).ok_or(Refusal::Unknown(variable))?.agreed()
    }

    /// The permission to write a word-sized variable: two sources agree on its address, it lies
    /// in the image's writable data, and its value is at most `max`.
    pub(crate) fn permit(
        &self,
        memory: &dyn Memory,
        variable: Variable,
        max: u64,
    ) -> Result<WritePermit, Refusal> {
        let address = self.agreed(variable)?;
        let at = self.bias.to_svma(address);
        let writable = self.image.segments().iter().any(|s| {
            s.writable && at >= s.svma && (at.0 - s.svma.0).saturating_add(8) <= s.memory_size
        });
        let implausible = |reason| Err(Refusal::Implausible { variable, reason });
        if !writable || !at.0.is_multiple_of(8) {
            return implausible("it is not an aligned word of writable data");
        }
        let Ok(current) = memory.read_u64(address) else {
            return Err(Refusal::Unreadable(variable));
        };
        if current > max {
            return implausible("its value is out of range");
        }
        Ok(WritePermit::new(variable, address, current))
    }
}

/// Finds the `moduledata` by its address in the file, or by its first two words in memory.
fn locate_module(
    image: &ElfImage,
    bias: Bias,
    table: &LineTable,
    memory: &dyn Memory,
) -> Result<Avma, FindError> {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&bias.to_avma(table.address()).0.to_le_bytes());
    head[8..].copy_from_slice(&bias.to_avma(table.names_address()).0.to_le_bytes());
    if let Some(module) = table.module() {
        let (at, mut found) = (bias.to_avma(module.address), [0; 16]);
        memory.read(at, &mut found)?;
        if found == head {
            return Ok(at);
        }
    }
    let writable = image.segments().iter().filter(|s| s.writable);
    let found = writable
        .map(|s| (bias.to_avma(s.svma), s.file_size.min(MAX_SEARCH)))
        .find_map(|(start, size)| search(memory, start, size, &head));
    found.ok_or(FindError::NoModule)
}

fn search(memory: &dyn Memory, start: Avma, size: u64, head: &[u8; 16]) -> Option<Avma> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let here = start.checked_add(at)?;
        let part = usize::try_from(size - at).map_or(CHUNK, |left| left.min(CHUNK));
        let bytes = chunk.get_mut(..part)?;
        if memory.read(here, bytes).is_ok() {
            let skip = (8 - here.0 % 8) as usize % 8;
            let hit = (skip..part).step_by(8).find(|i| bytes[*i..].starts_with(head));
            if let Some(i) = hit {
                return here.checked_add(i as u64);
            }
        }
        // Chunks overlap so that a `moduledata` across two of them is found.
        at += if part == CHUNK { (CHUNK - 16) as u64 } else { part as u64 };
    }
    None
}

/// Collects the claims of the symbol table, then those of the code.
fn collect_evidence(image: &ElfImage, bias: Bias, table: &LineTable) -> Vec<Evidence> {
    let mut evidence: Vec<Evidence> = Vec::new();
    let mut add = |variable, source, address: Option<Svma>| {
        let claim = (source, address.map(|a| bias.to_avma(a)));
        match evidence.iter_mut().find(|e| e.variable == variable) {
            Some(e) => e.claims.push(claim),
            None => evidence.push(Evidence { variable, claims: vec![claim] }),
        }
    };
    for (variable, address) in symbols::from_symbol_table(image) {
        add(variable, Source::SymbolTable, Some(address));
    }
    for claim in CodeReader::new(image, table).claims() {
        add(claim.variable, claim.source, claim.address);
    }
    evidence
}

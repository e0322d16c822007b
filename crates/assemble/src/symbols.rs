//! Names for the frames of a recording: one batch per image, and one for the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use aggregate::ids::{FrameKey, Function, Place};
use aggregate::runtimes::Runtimes;
use image::{Avma, ElfImage, Mapping, MappingId, MappingKind, Svma};
use symbolize::kernel::{KernelSymbol, NoKernelSymbol};
use symbolize::{DebugFiles, Frame, ImageSymbols, find_debug_file};

/// What is known of a frame.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// Innermost inlined call first; empty where nothing is known of the address.
    pub functions: Vec<Function>,
    /// The function has no name of its own: who has the image's symbols can do better.
    pub nameless: bool,
    /// A function that Go's profiles leave out of stacks: see [`symbolize::Symbolized::wrapper`].
    pub wrapper: bool,
}

/// What could not be told, for the profile's comments.
#[derive(Debug, Default)]
pub struct SymbolLosses {
    /// Frames in images that name no function there.
    pub nameless: u64,
    /// Images whose debug information is broken or missing in part or exceeds the limits: path,
    /// and what is known of it.
    pub damaged: Vec<Arc<str>>,
    /// Files that could not be opened or read, with the reason: of their frames only addresses
    /// are known, and stacks may end there.
    unread: BTreeMap<Arc<str>, String>,
    /// Why kernel addresses have no names, if they have none.
    pub kernel: Option<String>,
}

/// Unread files that are named one by one.
const MAX_UNREAD: usize = 8;

impl SymbolLosses {
    fn note_unread(&mut self, m: &Mapping) {
        let Err(absence) = &m.image else { return };
        // Memory that only looks like a file holds code of a compiler's.
        if m.kind == MappingKind::File && !m.name.starts_with("/memfd:") {
            self.unread.entry(m.name.clone()).or_insert_with(|| absence.to_string());
        }
    }

    /// One line for each file, and the command that fixes it, if there is one.
    pub fn unread(&self) -> Vec<String> {
        if self.unread.is_empty() {
            return Vec::new();
        }
        let mut lines: Vec<String> = self
            .unread
            .iter()
            .take(MAX_UNREAD)
            .map(|(path, why)| format!("{path}: {why}"))
            .collect();
        if let Some(more @ 1..) = self.unread.len().checked_sub(MAX_UNREAD) {
            lines.push(format!("{more} files more"));
        }
        let obstacle = host::Rights::read().ok().and_then(|r| r.deleted_files().err());
        if let (Some(last), Some(o)) = (lines.last_mut(), obstacle) {
            *last = format!("{last}; fix: {}", o.remedy);
        }
        lines
    }
}

/// So many images are kept from one look-up to the next: a target may load new ones for ever.
const MAX_IMAGES: usize = 500;

/// What was read of images and of the kernel's symbols, for the next look-up.
#[derive(Default)]
pub struct Known {
    images: BTreeMap<*const ElfImage, ImageSymbols>,
    /// The kernel's own functions by their ends, with where they start. Those of modules and BPF
    /// programs come and go.
    kernel: BTreeMap<u64, (u64, Function)>,
    /// What may be held decompressed from one look-up to the next, in bytes.
    keep: u64,
}

impl Known {
    /// For several look-ups, which come one after the other.
    pub fn keeping(bytes: u64) -> Self {
        Self { keep: bytes, ..Self::default() }
    }

    /// What an image holds, with its debug file, which is looked for once.
    fn image(
        &mut self,
        image: &Arc<ElfImage>,
        path: &Path,
        files: &dyn DebugFiles,
    ) -> ImageSymbols {
        let find = || ImageSymbols::new(image.clone(), &find_debug_file(image, path, files));
        // The symbols hold the image, so that no other one can get its address.
        self.images.entry(Arc::as_ptr(image)).or_insert_with(find).clone()
    }

    /// Lets go of what takes too much memory.
    fn trim(&mut self) {
        if self.images.len() > MAX_IMAGES {
            self.images.clear();
        }
        let mut left = self.keep;
        self.images.retain(|_, symbols| {
            let kept = left.checked_sub(symbols.decompressed_bytes());
            left = kept.unwrap_or(left);
            kept.is_some() && self.keep > 0
        });
    }

    fn kernel_function(&mut self, symbol: &KernelSymbol) -> Function {
        let function = kernel_function(symbol);
        if self.keep > 0 && &*symbol.module == symbolize::kernel::KERNEL {
            self.kernel.insert(symbol.end, (symbol.start, function.clone()));
        }
        function
    }

    fn kernel(&self, address: Avma) -> Option<&Function> {
        let (_, (start, function)) = self.kernel.range(address.0.checked_add(1)?..).next()?;
        (*start <= address.0).then_some(function)
    }
}

/// Names all frames. `mappings` tells what each mapping was; of frames without a recording, there
/// are no `runtimes`.
pub fn resolve(
    known: &mut Known,
    frames: &[FrameKey],
    markers: &[String],
    mappings: &BTreeMap<MappingId, Arc<Mapping>>,
    runtimes: Option<&Runtimes>,
    files: &dyn DebugFiles,
) -> (Vec<Resolved>, SymbolLosses) {
    let mut out = vec![Resolved::default(); frames.len()];
    let mut losses = SymbolLosses::default();
    let mut by_image: BTreeMap<*const ElfImage, Batch<'_>> = BTreeMap::new();
    let mut kernel = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        match frame.place {
            Place::Kernel => match known.kernel(frame.address) {
                Some(function) => out[i].functions = vec![function.clone()],
                None => kernel.push((i, frame.address)),
            },
            Place::Marker => out[i].functions = vec![marker(markers, frame.address)],
            Place::Unmapped => out[i].functions = vec![Function::named("[unmapped]")],
            Place::Runtime { runtime, index, .. } => {
                out[i].functions = runtimes.map_or_else(Vec::new, |r| r.functions(runtime, index));
            }
            Place::User(id) => {
                match mappings.get(&id) {
                    Some(m) => match m.image_at(frame.address) {
                        Some((image, svma)) => {
                            let batch = by_image
                                .entry(Arc::as_ptr(image))
                                .or_insert_with(|| Batch { image, mapping: m, wanted: Vec::new() });
                            batch.wanted.push((i, svma));
                        }
                        None => {
                            losses.note_unread(m);
                            out[i].functions = nameless_memory(m).into_iter().collect();
                        }
                    },
                    None => out[i].functions = vec![Function::named("[unmapped]")],
                }
            }
        }
    }
    for batch in by_image.values() {
        batch.resolve(known, files, &mut out, &mut losses);
        known.trim();
    }
    resolve_kernel(known, &kernel, &mut out, &mut losses);
    (out, losses)
}

fn marker(markers: &[String], index: Avma) -> Function {
    let name = usize::try_from(index.0).ok().and_then(|i| markers.get(i));
    Function::named(name.map_or("[unknown marker]", String::as_str))
}

/// Memory that no reader of the profile can look into later has to get its name here. A file
/// that could not be opened has not: whoever has it can resolve the address.
fn nameless_memory(m: &Mapping) -> Option<Function> {
    match m.kind {
        MappingKind::File => None,
        MappingKind::Vdso => Some(Function::named("[vdso]")),
        MappingKind::Vsyscall => Some(Function::named("[vsyscall]")),
        MappingKind::Anonymous => Some(Function::named("[anonymous code]")),
    }
}

struct Batch<'a> {
    image: &'a Arc<ElfImage>,
    mapping: &'a Mapping,
    wanted: Vec<(usize, Svma)>,
}

impl Batch<'_> {
    fn resolve(
        &self,
        known: &mut Known,
        files: &dyn DebugFiles,
        out: &mut [Resolved],
        losses: &mut SymbolLosses,
    ) {
        let path = Path::new(&*self.mapping.name);
        let symbols = known.image(self.image, path, files);
        let addresses: Vec<Svma> = self.wanted.iter().map(|(_, svma)| *svma).collect();
        let batch = symbols.resolve_with(&addresses, path, files);
        let lost = batch.losses;
        if lost.broken_units > 0 || lost.unreadable_sections > 0 || lost.limit_reached {
            losses.damaged.push(self.mapping.name.clone());
        }
        if lost.missing_split_units > 0 {
            losses.damaged.push(missing_split(path, &batch).into());
        }
        let mut nameless = Vec::new();
        for ((i, svma), symbol) in self.wanted.iter().zip(batch.symbols) {
            match symbol {
                Ok(s) => {
                    out[*i].wrapper = s.wrapper;
                    out[*i].functions = s.frames.into_iter().map(function).collect();
                }
                Err(_) => nameless.push((*i, *svma)),
            }
        }
        losses.nameless += nameless.len() as u64;
        self.bound(&nameless, out);
    }

    /// Gives the addresses of nameless functions at least the function's bounds, so that they
    /// stay together: `redis-server+0x1a2b0`.
    fn bound(&self, nameless: &[(usize, Svma)], out: &mut [Resolved]) {
        if nameless.is_empty() {
            return;
        }
        let file = self.mapping.name.rsplit('/').next().unwrap_or_default();
        let addresses: Vec<Svma> = nameless.iter().map(|(_, svma)| *svma).collect();
        let starts = unwind::function_starts(self.image, &addresses);
        for ((i, _), start) in nameless.iter().zip(starts) {
            let bounded = start.map(|start| Function::named(format!("{file}+{start}")));
            out[*i].nameless = true;
            out[*i].functions = nameless_memory(self.mapping).or(bounded).into_iter().collect();
        }
    }
}

fn missing_split(image: &Path, batch: &symbolize::Batch) -> String {
    let sought = batch.rejected.first().map(|a| format!(", such as {}", a.path.display()));
    let n = batch.losses.missing_split_units;
    format!("{}: {n} files were not found{}", image.display(), sought.unwrap_or_default())
}

fn function(f: Frame) -> Function {
    Function {
        name: f.name,
        system_name: f.system_name,
        file: f.file,
        line: f.line.unwrap_or(0),
        column: f.column.unwrap_or(0),
        start_line: f.start_line.unwrap_or(0),
    }
}

/// A module's function bears its module, as in the kernel's own traces: `ext4_sync_fs [ext4]`.
fn kernel_function(symbol: &KernelSymbol) -> Function {
    let name = match &*symbol.module {
        // `bpf_prog_HASH_name` says it already.
        symbolize::kernel::KERNEL | "[bpf]" => symbol.name.clone(),
        module => format!("{} {module}", symbol.name).into(),
    };
    Function { system_name: symbol.name.clone(), ..Function::named(name) }
}

/// Where the addresses are hidden, what would show them.
fn why_no_kernel_name(e: NoKernelSymbol) -> String {
    let obstacle = match e {
        NoKernelSymbol::KptrRestricted => {
            host::Rights::read().ok().and_then(|r| r.kernel_symbols().err())
        }
        NoKernelSymbol::NoSymbols | NoKernelSymbol::NotCovered => None,
    };
    match obstacle {
        Some(o) => o.to_string(),
        None => e.to_string(),
    }
}

fn resolve_kernel(
    known: &mut Known,
    wanted: &[(usize, Avma)],
    out: &mut [Resolved],
    losses: &mut SymbolLosses,
) {
    if wanted.is_empty() {
        return;
    }
    let addresses: Vec<u64> = wanted.iter().map(|(_, a)| a.0).collect();
    let names = File::open("/proc/kallsyms")
        .and_then(|f| symbolize::kernel::resolve(BufReader::with_capacity(1 << 16, f), &addresses));
    let names = match names {
        Ok(names) => names.names,
        Err(e) => {
            losses.kernel = Some(format!("/proc/kallsyms: {e}"));
            Vec::new()
        }
    };
    let mut nameless = 0;
    for (n, (i, _)) in wanted.iter().enumerate() {
        out[*i].functions = vec![match names.get(n) {
            Some(Ok(symbol)) => known.kernel_function(symbol),
            Some(Err(e)) => {
                nameless += 1;
                losses.kernel.get_or_insert_with(|| why_no_kernel_name(*e));
                Function::named("[kernel]")
            }
            None => Function::named("[kernel]"),
        }];
    }
    if let (Some(why), 1..) = (&mut losses.kernel, nameless) {
        // One address of many is a BPF program or a module that has gone.
        *why = format!("{nameless} of {} addresses: {why}", wanted.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as the kernel prints them (kernel/kallsyms.c, `s_show`).
    const KALLSYMS: &str = "\
ffffffff81000000 T _stext
ffffffff81000100 T do_syscall_64
ffffffff81000200 T _etext
ffffffffc0000000 t ext4_sync_fs\t[ext4]
ffffffffc0001000 t bpf_prog_6deef7357e7b4530_watch\t[bpf]
";

    #[test]
    fn a_kernel_function_is_known_up_to_the_next_symbol() {
        let mut known = Known::keeping(1);
        let function = Function::named("do_syscall_64");
        known.kernel.insert(0xffffffff81000200, (0xffffffff81000100, function.clone()));
        let at = |address| known.kernel(Avma(address));
        assert_eq!(at(0xffffffff810000ff), None);
        assert_eq!(at(0xffffffff81000100), Some(&function));
        assert_eq!(at(0xffffffff810001ff), Some(&function));
        assert_eq!(at(0xffffffff81000200), None);
        assert_eq!(at(u64::MAX), None);
    }

    #[test]
    fn functions_of_modules_bear_their_module() {
        let addresses = [0xffffffff81000110, 0xffffffffc0000010, 0xffffffffc0001010];
        let found = symbolize::kernel::resolve(KALLSYMS.as_bytes(), &addresses).unwrap();
        let functions: Vec<_> =
            found.names.iter().map(|n| kernel_function(n.as_ref().unwrap())).collect();
        let names: Vec<_> = functions.iter().map(|f| &*f.name).collect();
        let bare: Vec<_> = functions.iter().map(|f| &*f.system_name).collect();
        let program = "bpf_prog_6deef7357e7b4530_watch";
        assert_eq!(names, ["do_syscall_64", "ext4_sync_fs [ext4]", program]);
        assert_eq!(bare, ["do_syscall_64", "ext4_sync_fs", program]);
    }
}

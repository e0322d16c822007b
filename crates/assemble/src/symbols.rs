//! Names the frames of a recording: one batch per image, and one for the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use aggregate::ids::{FrameKey, Function, Place};
use aggregate::recorder::Recorder;
use aggregate::runtimes::Runtimes;
use image::{Avma, ElfImage, Mapping, MappingId, MappingKind, Svma};
use symbolize::kernel::{KernelSymbol, NoKernelSymbol};
use symbolize::{DebugFiles, Frame, ImageSymbols, find_debug_file};

/// The functions of a frame.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// Innermost inlined call first; empty if nothing is known about the address.
    pub functions: Vec<Function>,
    /// The image has no name for the function: a reader with its symbols may find one.
    pub nameless: bool,
    /// A function that Go's profiles leave out of stacks: see [`symbolize::Symbolized::wrapper`].
    pub wrapper: bool,
}

/// What could not be named, for the profile's comments.
#[derive(Debug, Default)]
pub struct SymbolLosses {
    /// Frames whose image has no name for their function.
    pub nameless: u64,
    /// Paths of images whose debug information is broken, partly missing or over the limits, with
    /// the details that are known.
    pub damaged: Vec<Arc<str>>,
    /// Files that could not be opened or read, with the reason. Their frames have only addresses,
    /// and stacks may end in them.
    unread: BTreeMap<Arc<str>, String>,
    /// Why kernel addresses have no names; `None` if they have.
    pub kernel: Option<String>,
}

/// Unread files that are listed individually.
const MAX_UNREAD: usize = 8;

impl SymbolLosses {
    fn note_unread(&mut self, m: &Mapping) {
        let Err(absence) = &m.image else { return };
        // A memfd is not a file on disk: JIT compilers put their code there.
        if m.kind == MappingKind::File && !m.name.starts_with("/memfd:") {
            self.unread.entry(m.name.clone()).or_insert_with(|| absence.to_string());
        }
    }

    /// One line per file, and the command that fixes it if there is one.
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
            lines.push(format!("and {more} more {}", if more == 1 { "file" } else { "files" }));
        }
        let obstacle = host::Rights::read().ok().and_then(|r| r.deleted_files().err());
        if let (Some(last), Some(o)) = (lines.last_mut(), obstacle) {
            *last = format!("{last}; fix: {}", o.fix);
        }
        lines
    }
}

/// Images kept between batches: a target may load new ones without end.
const MAX_IMAGES: usize = 500;

/// What the addresses of frames refer to.
#[derive(Clone, Copy)]
pub struct FrameContext<'a> {
    /// The mappings of [`Place::User`] frames.
    pub mappings: &'a BTreeMap<MappingId, Arc<Mapping>>,
    /// The names of [`Place::Marker`] frames, by address.
    pub markers: &'a [String],
    /// The runtimes of [`Place::Runtime`] frames; `None` if there are no such frames.
    pub runtimes: Option<&'a Runtimes>,
}

impl<'a> From<&'a Recorder> for FrameContext<'a> {
    fn from(recorder: &'a Recorder) -> Self {
        Self {
            mappings: &recorder.mappings,
            markers: &recorder.markers,
            runtimes: Some(&recorder.runtimes),
        }
    }
}

/// Names frames: one batch of addresses per image, and one for the kernel.
///
/// By default it keeps nothing between batches.
#[derive(Default)]
pub struct Namer {
    images: BTreeMap<*const ElfImage, ImageSymbols>,
    /// The kernel's own functions by end address, with their start. Functions of modules and BPF
    /// programs are not kept, because those can be unloaded.
    kernel: BTreeMap<u64, (u64, Function)>,
    /// How many decompressed bytes may be kept between batches.
    keep: u64,
}

impl Namer {
    /// A namer for several batches: it keeps the kernel's functions, and of the images' debug
    /// sections at most `bytes` decompressed ones.
    #[must_use]
    pub fn keeping(bytes: u64) -> Self {
        Self { keep: bytes, ..Self::default() }
    }

    /// Names frames. The result has one entry per frame, in the order of `frames`.
    pub fn name(
        &mut self,
        frames: &[FrameKey],
        context: FrameContext<'_>,
        files: &dyn DebugFiles,
    ) -> (Vec<Resolved>, SymbolLosses) {
        let mut out = vec![Resolved::default(); frames.len()];
        let mut losses = SymbolLosses::default();
        let mut by_image: BTreeMap<*const ElfImage, Batch<'_>> = BTreeMap::new();
        let mut kernel = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            match frame.place {
                Place::Kernel => match self.kernel(frame.address) {
                    Some(function) => out[i].functions = vec![function.clone()],
                    None => kernel.push((i, frame.address)),
                },
                Place::Marker => out[i].functions = vec![marker(context.markers, frame.address)],
                Place::Unmapped => out[i].functions = vec![Function::named("[unmapped]")],
                Place::Runtime { runtime, index, .. } => {
                    let functions = context.runtimes.map(|r| r.functions(runtime, index));
                    out[i].functions = functions.unwrap_or_default();
                }
                Place::User(id) => match context.mappings.get(&id) {
                    None => out[i].functions = vec![Function::named("[unmapped]")],
                    Some(mapping) => match mapping.image_at(frame.address) {
                        Some((image, svma)) => {
                            let batch = by_image
                                .entry(Arc::as_ptr(image))
                                .or_insert_with(|| Batch { image, mapping, addresses: Vec::new() });
                            batch.addresses.push((i, svma));
                        }
                        None => {
                            losses.note_unread(mapping);
                            out[i].functions = nameless_memory(mapping).into_iter().collect();
                        }
                    },
                },
            }
        }
        for batch in by_image.values() {
            batch.name(self, files, &mut out, &mut losses);
            self.trim();
        }
        self.name_kernel(&kernel, &mut out, &mut losses);
        (out, losses)
    }

    /// Names kernel addresses by `/proc/kallsyms`. `addresses` are positions in `out` with their
    /// address.
    fn name_kernel(
        &mut self,
        addresses: &[(usize, Avma)],
        out: &mut [Resolved],
        losses: &mut SymbolLosses,
    ) {
        if addresses.is_empty() {
            return;
        }
        let words: Vec<u64> = addresses.iter().map(|(_, a)| a.0).collect();
        let names = File::open("/proc/kallsyms")
            .and_then(|f| symbolize::kernel::resolve(BufReader::with_capacity(1 << 16, f), &words));
        let names = match names {
            Ok(names) => names.names,
            Err(e) => {
                losses.kernel = Some(format!("/proc/kallsyms: {e}"));
                Vec::new()
            }
        };
        let mut nameless = 0;
        for (n, (i, _)) in addresses.iter().enumerate() {
            out[*i].functions = vec![match names.get(n) {
                Some(Ok(symbol)) => self.kernel_function(symbol),
                Some(Err(e)) => {
                    nameless += 1;
                    losses.kernel.get_or_insert_with(|| why_no_kernel_name(*e));
                    Function::named("[kernel]")
                }
                None => Function::named("[kernel]"),
            }];
        }
        if let (Some(why), 1..) = (&mut losses.kernel, nameless) {
            // A single address may belong to a BPF program or module that was unloaded.
            *why = format!("{nameless} of {} addresses: {why}", addresses.len());
        }
    }

    /// The symbols of an image and of its debug file, which is searched for once.
    fn image(
        &mut self,
        image: &Arc<ElfImage>,
        path: &Path,
        files: &dyn DebugFiles,
    ) -> ImageSymbols {
        let find = || ImageSymbols::new(image.clone(), &find_debug_file(image, path, files));
        // The symbols keep the image alive, so no other image can get its address.
        self.images.entry(Arc::as_ptr(image)).or_insert_with(find).clone()
    }

    /// Drops what exceeds the limits on memory.
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

fn marker(markers: &[String], index: Avma) -> Function {
    let name = usize::try_from(index.0).ok().and_then(|i| markers.get(i));
    Function::named(name.map_or("[unknown marker]", String::as_str))
}

/// Names memory that readers of the profile cannot inspect later. A file that could not be opened
/// gets no name: a reader who has the file can still resolve the address.
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
    /// Positions in the output, with the address.
    addresses: Vec<(usize, Svma)>,
}

impl Batch<'_> {
    fn name(
        &self,
        namer: &mut Namer,
        files: &dyn DebugFiles,
        out: &mut [Resolved],
        losses: &mut SymbolLosses,
    ) {
        let path = Path::new(&*self.mapping.name);
        let symbols = namer.image(self.image, path, files);
        let addresses: Vec<Svma> = self.addresses.iter().map(|(_, svma)| *svma).collect();
        let batch = symbols.resolve_with(&addresses, path, files);
        let lost = batch.losses;
        if self.image.over_budget() {
            // Its unwind tables and those of a language runtime may be among them.
            let what = "compressed sections were left out, because those of all files together are \
                        too large or take too long";
            losses.damaged.push(format!("{}: {what}", self.mapping.name).into());
        } else if lost.broken_units > 0 || lost.unreadable_sections > 0 || lost.limit_reached {
            losses.damaged.push(self.mapping.name.clone());
        }
        if lost.missing_split_units > 0 {
            losses.damaged.push(missing_split(path, &batch).into());
        }
        let mut nameless = Vec::new();
        for ((i, svma), symbol) in self.addresses.iter().zip(batch.symbols) {
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

    /// Names addresses of nameless functions by the function's start (`redis-server+0x1a2b0`), so
    /// that all samples of a function stay together.
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
    let files = if n == 1 { "split debug file was" } else { "split debug files were" };
    format!("{}: {n} {files} not found{}", image.display(), sought.unwrap_or_default())
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

/// Appends the module to a module's function, as the kernel's own traces do:
/// `ext4_sync_fs [ext4]`.
fn kernel_function(symbol: &KernelSymbol) -> Function {
    let name = match &*symbol.module {
        // The name `bpf_prog_HASH_name` already says what it is.
        symbolize::kernel::KERNEL | "[bpf]" => symbol.name.clone(),
        module => format!("{} {module}", symbol.name).into(),
    };
    Function { system_name: symbol.name.clone(), ..Function::named(name) }
}

/// Why an address has no name; if addresses are hidden, also what would reveal them.
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
    fn a_kernel_function_extends_to_the_next_symbol() {
        let mut namer = Namer::keeping(1);
        let function = Function::named("do_syscall_64");
        namer.kernel.insert(0xffffffff81000200, (0xffffffff81000100, function.clone()));
        let at = |address| namer.kernel(Avma(address));
        assert_eq!(at(0xffffffff810000ff), None);
        assert_eq!(at(0xffffffff81000100), Some(&function));
        assert_eq!(at(0xffffffff810001ff), Some(&function));
        assert_eq!(at(0xffffffff81000200), None);
        assert_eq!(at(u64::MAX), None);
    }

    #[test]
    fn functions_of_modules_show_their_module() {
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

//! Lists the fuzzed parsers: all that read bytes controlled by a profiled process or a file's
//! author.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use gopclntab::LineTable;
use image::{
    AddressSpace, Arch, Avma, Bias, ElfImage, FileOffset, ImageBytes, MappingId, MappingKind,
    Memory, NewMapping, Svma, Unreadable,
};
use symbolize::jit::{JitDump, PerfMap};
use symbolize::{ImageSymbols, RootedFiles, find_debug_file};
use unwind::{Registers, Unwinder};

use crate::mutate::{Random, Remake};
use crate::profiles;

/// A parser to fuzz.
pub struct Target {
    pub name: &'static str,
    pub about: &'static str,
    /// The directory of its inputs in the corpus.
    pub corpus: &'static str,
    /// The maximum length of inputs, in bytes.
    pub max_len: usize,
    /// Makes a valid input from another one, in place of most changes of its bytes: for formats of
    /// which damaged bytes are rejected early.
    pub remake: Option<Remake>,
    /// Parses the input and returns a hash of the outcome.
    pub run: fn(&[u8]) -> u64,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "elf",
        about: "an image: headers, symbols, stubs, debug links, DWARF, MiniDebugInfo",
        corpus: "elf",
        max_len: 256 << 10,
        remake: None,
        run: elf,
    },
    Target {
        name: "unwind",
        about: "unwinding through the same images: .eh_frame, .eh_frame_hdr, .debug_frame, code",
        corpus: "elf",
        max_len: 256 << 10,
        remake: None,
        run: unwind,
    },
    Target {
        name: "pclntab",
        about: "Go's line table: mutations of the one in EXOPROF_FUZZ_GO",
        corpus: "patches",
        max_len: 4 << 10,
        remake: None,
        run: pclntab,
    },
    Target {
        name: "goruntime",
        about: "a Go runtime's state: mutations of the memory of the program EXOPROF_FUZZ_GO",
        corpus: "patches",
        max_len: 4 << 10,
        remake: None,
        run: goruntime,
    },
    Target {
        name: "pyruntime",
        about: "code objects of CPython, in memory where every address is readable",
        corpus: "python",
        max_len: 4 << 10,
        remake: None,
        run: pyruntime,
    },
    Target {
        name: "profile",
        about: "pprof files: decoding, validation, merging, all reports",
        corpus: "profile",
        max_len: 64 << 10,
        remake: Some(profiles::remake),
        run: profiles::run,
    },
    Target {
        name: "perfmap",
        about: "a growing perf map",
        corpus: "perfmap",
        max_len: 16 << 10,
        remake: None,
        run: perfmap,
    },
    Target {
        name: "jitdump",
        about: "a growing jitdump",
        corpus: "jitdump",
        max_len: 16 << 10,
        remake: None,
        run: jitdump,
    },
    Target {
        name: "proc",
        about: "lines of /proc/PID/maps and of /proc/kallsyms",
        corpus: "proc",
        max_len: 16 << 10,
        remake: None,
        run: proc,
    },
];

pub fn hash(what: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn parse(input: &[u8]) -> Result<Arc<ElfImage>, u64> {
    let parsed = ElfImage::parse(ImageBytes::Owned(input.to_vec()));
    parsed.map(Arc::new).map_err(|e| hash(e.to_string()))
}

/// Addresses in the code and a few outside of it.
fn addresses(image: &ElfImage) -> Vec<Svma> {
    let mut all = vec![Svma(0), Svma(0x1000), Svma(u64::MAX), Svma(u64::MAX - 1)];
    for segment in image.segments().iter().filter(|s| s.executable).take(4) {
        let step = (segment.memory_size / 64).max(1);
        all.extend((0..64).map(|i| Svma(segment.svma.0.wrapping_add(i * step))));
    }
    all
}

fn elf(input: &[u8]) -> u64 {
    let image = match parse(input) {
        Ok(image) => image,
        Err(outcome) => return outcome,
    };
    let all = addresses(&image);
    let found = find_debug_file(&image, Path::new("/opt/program"), &RootedFiles::new("/nowhere"));
    let symbols = ImageSymbols::new(Arc::clone(&image), &found);
    let batch =
        symbols.resolve_with(&all, Path::new("/opt/program"), &RootedFiles::new("/nowhere"));
    assert_eq!(batch.symbols.len(), all.len());
    let kinds: Vec<_> = batch
        .symbols
        .iter()
        .map(|s| s.as_ref().map(|s| (s.source, s.frames.len().min(6))).map_err(|e| *e))
        .collect();
    let place = image.bias_of_mapping(Avma(0x7000_0000), FileOffset(0x1000), 0x1000);
    let starts = unwind::function_starts(&image, &all);
    let started = starts.iter().flatten().count();
    let tries: Vec<_> = found.rejected.iter().map(|a| a.rejection.to_string()).collect();
    hash((kinds, format!("{:?}", batch.losses), place.is_some(), started.min(8), tries))
}

/// A stack of random words, many of which are code addresses.
struct Stack<'a> {
    words: &'a [u8],
    code: u64,
}

impl Memory for Stack<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut random = Random::new(addr.0);
        for chunk in buf.chunks_mut(8) {
            let value = match random.below(4) {
                0 => 0x7fff_0000_0000 + (random.next() & 0xfff8),
                1 => self.words.get(random.below(self.words.len())).map_or(0, |b| u64::from(*b)),
                _ => self.code + (random.next() & 0x3fff),
            };
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

fn unwind(input: &[u8]) -> u64 {
    let image = match parse(input) {
        Ok(image) => image,
        Err(outcome) => return outcome,
    };
    let arch = image.arch();
    let start = 0x5555_0000_0000;
    let mut space = AddressSpace::default();
    let code = image.segments().iter().find(|s| s.executable).map_or(0x1000, |s| s.svma.0);
    space.insert(
        MappingId(1),
        NewMapping {
            start: Avma(start),
            end: Avma(start + (1 << 24)),
            offset: FileOffset(0),
            name: "/opt/program".into(),
            file: None,
            kind: MappingKind::File,
            image: Ok((Arc::clone(&image), Bias::between(Svma(0), Avma(start)))),
        },
    );
    let mut unwinder = Unwinder::new(arch);
    unwinder.set_max_frames(128);
    let memory = Stack { words: input, code: start.wrapping_add(code) };
    let mut random = Random::new(1);
    let mut ends = Vec::new();
    for _ in 0..24 {
        let mut registers = Registers::unknown(arch);
        let count = if arch == Arch::X86_64 { 16 } else { 32 };
        for n in 0..count {
            registers.set(n, 0x7fff_0000_0000 + (random.next() & 0xfff8));
        }
        registers.set_pc(Avma(memory.code.wrapping_add(random.next() & 0x3fff)));
        let mut frames = Vec::new();
        let end = unwinder.unwind(&space, &registers, &memory, &mut frames);
        assert!(frames.len() <= 128);
        ends.push((frames.len().min(6), end.to_string().split(" at ").next().map(str::to_owned)));
    }
    ends.sort();
    ends.dedup();
    hash(ends)
}

/// Memory that repeats the input, so that every pointer leads to some part of it.
struct Repeated<'a>(&'a [u8]);

impl Memory for Repeated<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        if self.0.is_empty() {
            return Err(Unreadable(addr));
        }
        let start = usize::try_from(addr.0 % self.0.len() as u64).unwrap_or(0);
        for (byte, value) in buf.iter_mut().zip(self.0.iter().cycle().skip(start)) {
            *byte = *value;
        }
        Ok(())
    }
}

fn pyruntime(input: &[u8]) -> u64 {
    let memory = Repeated(input);
    let mut seen = Vec::new();
    for layout in (9..=12).filter_map(pyruntime::Layout::of_minor) {
        let reader = pyruntime::CodeReader::new(layout, None);
        for at in (0..8).map(|i| Avma(i * 24)) {
            seen.push(match reader.read(&memory, at) {
                Ok(code) => {
                    let instruction = |i: u64| at.0.wrapping_add(i * 6);
                    let lines = (0..64).filter(|i| code.line(instruction(*i)).is_some()).count();
                    let name = code.name.chars().count().min(40);
                    (name, code.file.len().min(40), lines.min(8))
                }
                Err(_) => (0, 0, 0),
            });
        }
    }
    seen.sort_unstable();
    seen.dedup();
    hash(seen)
}

/// The Go program to mutate. It is too large for the corpus, so scripts/fuzz builds it.
fn go_program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let path = std::env::var_os("EXOPROF_FUZZ_GO")
            .expect("EXOPROF_FUZZ_GO must be the path of a Go program");
        std::fs::read(path).expect("EXOPROF_FUZZ_GO can be read")
    })
}

/// A change of up to eight bytes. An input is a list of these.
struct Patch {
    at: u32,
    value: [u8; 8],
}

fn patches(input: &[u8]) -> impl Iterator<Item = Patch> {
    input.chunks_exact(12).filter_map(|chunk| {
        let (at, value) = chunk.split_first_chunk::<4>()?;
        Some(Patch { at: u32::from_le_bytes(*at), value: value.try_into().ok()? })
    })
}

fn pclntab(input: &[u8]) -> u64 {
    let mut bytes = go_program().to_vec();
    let (start, len) = {
        let image = ElfImage::parse(ImageBytes::Owned(bytes)).expect("the program is valid ELF");
        let table = image.section(".gopclntab").expect("a line table").data;
        let start = table.as_ptr().addr() - image.bytes().as_ptr().addr();
        let place = (start, table.len());
        bytes = image.bytes().to_vec();
        place
    };
    for patch in patches(input) {
        // Half of the patches change the header and the first functions, on which most code
        // depends.
        let range = if patch.at % 2 == 0 { len } else { len.min(2048) };
        let at = start + (patch.at / 2) as usize % range;
        for (byte, v) in bytes[at..].iter_mut().zip(patch.value) {
            *byte = v;
        }
    }
    let image = Arc::new(ElfImage::parse(ImageBytes::Owned(bytes)).expect("still an image"));
    let table = match LineTable::from_image(&image) {
        Ok(table) => table,
        Err(e) => return hash(e.to_string()),
    };
    let text = table.text().0;
    let mut seen = vec![(table.len().min(64), 0, false)];
    for pc in (0..256).map(|i| Svma(text.wrapping_add(i * 97))) {
        let Some(function) = table.function_at(pc) else { continue };
        let frames = function.frames(pc).take(300).count();
        let name = function.name().len();
        seen.push((frames, name.min(40), function.sp_delta(pc).is_some()));
    }
    let named = table.functions().take(2000).filter(|f| f.start_line().is_some()).count();
    seen.sort_unstable();
    seen.dedup();
    hash((seen, named.min(100)))
}

/// The memory of a Go program at its start. A patch applies to the result of one read: its position
/// contains the number of the read (upper 16 bits) and the offset in it.
struct Patched<'a> {
    image: &'a ElfImage,
    patches: Vec<Patch>,
    reads: Cell<u32>,
}

impl Memory for Patched<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let number = self.reads.get();
        self.reads.set(number.wrapping_add(1));
        let inside = self
            .image
            .segments()
            .iter()
            .any(|s| addr.0.checked_sub(s.svma.0).is_some_and(|o| o < s.memory_size));
        if !inside || buf.len() > 64 << 20 {
            return Err(Unreadable(addr));
        }
        buf.fill(0);
        if let Some(bytes) = self.image.bytes_at(Svma(addr.0)) {
            let n = bytes.len().min(buf.len());
            buf[..n].copy_from_slice(&bytes[..n]);
        }
        for patch in self.patches.iter().filter(|p| p.at >> 16 == number % 0x400) {
            let offset = (patch.at & 0xffff) as usize % buf.len().max(1);
            // Small numbers are converted to addresses in the program, so that pointers are valid.
            let value = u64::from_le_bytes(patch.value);
            let data = self.image.segments().last().map_or(0, |s| s.svma.0);
            let value = if value < 1 << 16 { data + value * 8 } else { value };
            for (byte, v) in buf.iter_mut().skip(offset).zip(value.to_le_bytes()) {
                *byte = v;
            }
        }
        Ok(())
    }
}

fn goruntime(input: &[u8]) -> u64 {
    static IMAGE: OnceLock<Arc<ElfImage>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let bytes = ImageBytes::Owned(go_program().to_vec());
        Arc::new(ElfImage::parse(bytes).expect("the program is valid ELF"))
    });
    let memory = Patched { image, patches: patches(input).collect(), reads: Cell::new(0) };
    let runtime = match goruntime::Runtime::find(image, Bias::between(Svma(0), Avma(0)), &memory) {
        Ok(runtime) => runtime,
        Err(e) => return hash(e.to_string()),
    };
    let list = runtime.goroutine_reader(&memory, true).list();
    let goroutines = list.as_ref().map(|l| {
        let text = goruntime::format_goroutines(&runtime, &l.goroutines, u64::MAX);
        (l.goroutines.len().min(20), text.len().min(2000))
    });
    let heap = runtime.heap_profile(&memory, goruntime::HeapView::Live);
    let blocked = runtime.block_profile(&memory).map(|p| p.records.len().min(20));
    hash((
        goroutines.map_err(|e| e.to_string()),
        heap.map(|h| h.records.len().min(20)).map_err(|e| e.to_string()),
        blocked.map_err(|e| e.to_string()),
        runtime.threads(&memory).is_ok(),
        runtime.rates(&memory).is_ok(),
    ))
}

/// Splits the input into pieces. Their size depends on the input's length.
fn pieces(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.chunks([1, 7, 40, 4096][input.len() % 4])
}

fn perfmap(input: &[u8]) -> u64 {
    let mut map = PerfMap::default();
    pieces(input).for_each(|piece| map.feed(piece));
    let found: Vec<_> = (0..64)
        .map(|i| map.find(Avma(0x1000 + i * 16)).map(|f| (f.name.len().min(20), f.line > 0)))
        .collect();
    hash((map.len().min(50), map.malformed().min(8), map.left_out().min(2), found))
}

fn jitdump(input: &[u8]) -> u64 {
    let mut dump = JitDump::default();
    for piece in pieces(input) {
        // Do not feed bytes that the parser asks to skip.
        let passed = usize::try_from(dump.pass_over()).unwrap_or(usize::MAX).min(piece.len());
        dump.feed(&piece[passed..]);
    }
    let found: Vec<_> = (0..64)
        .flat_map(|i| [5, 100, u64::MAX].map(|t| (Avma(0x1000 + i * 16), t)))
        .map(|(at, time)| dump.find(at, time).map(|f| (f.name.len().min(20), f.line)))
        .collect();
    hash((dump.refused(), dump.len().min(50), dump.left_out().min(2), found))
}

fn proc(input: &[u8]) -> u64 {
    let rows: Vec<_> = input
        .split(|b| *b == b'\n')
        .map(|line| process::MapRow::parse(line).map(|row| (row.kind(), row.file_id().is_some())))
        .collect();
    let wanted = [0, 0x1000, 0xffff_ffff_8100_0010, 0xffff_ffff_c000_0010, u64::MAX];
    let names = symbolize::kernel::resolve(input, &wanted).map(|n| {
        let found: Vec<_> = n.names.iter().map(|n| n.as_ref().map(|s| s.name.len())).collect();
        format!("{found:?} {:?}", n.malformed.min(4))
    });
    let kinds: Vec<_> = rows.iter().take(8).map(|r| format!("{r:?}")).collect();
    hash((kinds, names.ok()))
}

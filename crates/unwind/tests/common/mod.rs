//! Records programs that run under gdb, and reads recordings. At each stop, gdb writes registers,
//! memory and its own backtrace (`gdb_dump.py`).
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod oracle;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use image::{
    AddressSpace, Arch, Avma, ElfImage, FileOffset, ImageAbsence, ImageBytes, MappingId,
    MappingKind, Memory, NewMapping, Unreadable,
};
use unwind::Registers;

/// The memory recorded at one stop: (address, bytes).
pub struct Regions(pub Vec<(u64, Vec<u8>)>);

impl Memory for Regions {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.0
            .iter()
            .find_map(|(start, bytes)| {
                let at = usize::try_from(addr.0.checked_sub(*start)?).ok()?;
                bytes.get(at..at.checked_add(buf.len())?)
            })
            .map(|bytes| buf.copy_from_slice(bytes))
            .ok_or(Unreadable(addr))
    }
}

/// The state of the program at one stop.
pub struct Stop {
    pub registers: Registers,
    pub memory: Regions,
    /// gdb's frames, leaf first.
    pub pcs: Vec<u64>,
    /// Whether gdb's last frame is the outermost one.
    pub complete: bool,
}

/// A recorded run of a program.
pub struct Recording {
    pub space: AddressSpace,
    pub stops: Vec<Stop>,
}

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The last word of a complete recording.
const END: u64 = 0x64_6e65;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}:\n{text}");
    text
}

/// Compiles a program from `tests/programs`.
pub fn build(dir: &Path, source: &str, flags: &[&str]) -> PathBuf {
    let compiler = if source.ends_with(".cc") { "g++" } else { "gcc" };
    build_with(compiler, dir, source, flags)
}

/// Like [`build`], with the given compiler.
pub fn build_with(compiler: &str, dir: &Path, source: &str, flags: &[&str]) -> PathBuf {
    let out = dir.join("program");
    let mut command = Command::new(compiler);
    command.args(["-O2", "-fomit-frame-pointer"]).arg(tests_dir().join("programs").join(source));
    run(command.args(flags).arg("-pthread").arg("-o").arg(&out));
    out
}

/// Runs a program under gdb with a script that calls `recorder`, and reads the recording.
pub fn record(dir: &Path, program: &Path, script: &str) -> Recording {
    read(&dump(dir, program, script))
}

/// Like [`record`], but returns the bytes of the recording.
pub fn dump(dir: &Path, program: &Path, script: &str) -> Vec<u8> {
    let (dump, whole) = (dir.join("dump"), dir.join("script.py"));
    let library = std::fs::read_to_string(tests_dir().join("gdb_dump.py")).unwrap();
    let text = format!("{library}\nrecorder = Recorder({dump:?})\n{script}\nrecorder.done()\n");
    std::fs::write(&whole, text).unwrap();
    // The C library reads the environment before main, with some more instructions per variable.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut gdb = Command::new("gdb");
    gdb.env_clear().envs([("PATH", path), ("LC_ALL", "C".into())]);
    let output = run(gdb.args(["-nx", "-batch", "-x"]).arg(&whole).arg(program));
    let dump = std::fs::read(&dump).unwrap();
    assert!(dump.ends_with(&END.to_le_bytes()), "gdb's script failed:\n{output}");
    dump
}

impl Recording {
    /// The same address space with other images. Calls `other` for each image with the mapping's
    /// name and the bytes of the file; it returns the new bytes, or `None` to keep the image.
    pub fn with_images(
        &self,
        mut other: impl FnMut(&str, &[u8]) -> Option<Vec<u8>>,
    ) -> AddressSpace {
        let mut space = AddressSpace::default();
        for m in self.space.iter() {
            let image = m.image.clone().and_then(|(image, bias)| {
                let Some(bytes) = other(&m.name, image.bytes()) else { return Ok((image, bias)) };
                let image = ElfImage::parse(ImageBytes::Owned(bytes));
                image.map(|i| (Arc::new(i), bias)).map_err(|_| ImageAbsence::Anonymous)
            });
            let (start, end, offset) = (m.start, m.end, m.offset);
            let (name, file, kind) = (m.name.clone(), m.file, m.kind);
            space.insert(m.id, NewMapping { start, end, offset, name, file, kind, image });
        }
        space
    }
}

struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().unwrap())
    }

    fn bytes(&mut self, n: u64) -> &'a [u8] {
        let (head, rest) = self.0.split_at(usize::try_from(n).unwrap());
        self.0 = rest;
        head
    }
}

/// Reads a recording and opens its modules at their original paths.
pub fn read(dump: &[u8]) -> Recording {
    read_with(dump, &mut |name| Arc::new(ElfImage::open(&File::open(name).unwrap()).unwrap()))
}

/// Reads a recording. `module` supplies the image of a path.
pub fn read_with(dump: &[u8], module: &mut dyn FnMut(&str) -> Arc<ElfImage>) -> Recording {
    let mut words = Words(dump);
    let length = words.word();
    let maps = std::str::from_utf8(words.bytes(length)).unwrap();
    let (_, length) = (words.word(), words.word());
    let space = address_space(maps, words.bytes(length), module);
    let mut stops = Vec::new();
    while words.word() != END {
        let mut registers = Registers::unknown(Arch::X86_64);
        (0..17).for_each(|n| registers.set(n, words.word()));
        let complete = words.word() == 1;
        let count = words.word();
        let pcs = (0..count).map(|_| words.word()).collect();
        let count = words.word();
        let region = |_| {
            let (address, length) = (words.word(), words.word());
            (address, words.bytes(length).to_vec())
        };
        let memory = Regions((0..count).map(region).collect());
        stops.push(Stop { registers, memory, pcs, complete });
    }
    Recording { space, stops }
}

fn address_space(
    maps: &str,
    vdso: &[u8],
    module: &mut dyn FnMut(&str) -> Arc<ElfImage>,
) -> AddressSpace {
    let mut space = AddressSpace::default();
    for (i, line) in maps.lines().enumerate() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if !fields[1].contains('x') {
            continue;
        }
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = fields[0].split_once('-').unwrap();
        let (start, end) = (Avma(number(start)), Avma(number(end)));
        let offset = FileOffset(number(fields[2]));
        let name = fields.get(5).copied().unwrap_or("//anon");
        let (kind, image) = match name {
            "[vdso]" => {
                let image = ElfImage::parse(ImageBytes::Owned(vdso.into())).ok();
                (MappingKind::Vdso, image.map(Arc::new))
            }
            "[vsyscall]" => (MappingKind::Vsyscall, None),
            name if name.starts_with('/') => (MappingKind::File, Some(module(name))),
            _ => (MappingKind::Anonymous, None),
        };
        let image = image.map(|image| {
            let bias = image.bias_of_mapping(start, offset, end.0 - start.0).unwrap();
            (image, bias)
        });
        let image = image.ok_or(ImageAbsence::Anonymous);
        let id = MappingId(u32::try_from(i).unwrap());
        let name = name.into();
        space.insert(id, NewMapping { start, end, offset, name, file: None, kind, image });
    }
    space
}

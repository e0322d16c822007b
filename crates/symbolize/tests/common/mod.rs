//! Builds programs for the tests and runs binutils on them.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use image::{ElfImage, Svma};
use symbolize::{Batch, DebugSearch, ImageSymbols, RootedFiles, find_debug_file};

/// The path of a source file of the test programs.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// Runs a command, which must succeed, and returns its stdout.
pub fn run(program: &str, args: &[&str], dir: &Path) -> String {
    // Binutils translate what they print.
    let mut command = Command::new(program);
    let out = command.args(args).current_dir(dir).env("LC_ALL", "C").output().expect(program);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {err}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Compiles sources of the test programs to `dir/name`.
pub fn compile(
    compiler: &str,
    flags: &[&str],
    sources: &[&str],
    dir: &Path,
    name: &str,
) -> PathBuf {
    let out = dir.join(name);
    let sources: Vec<PathBuf> = sources.iter().map(|s| source(s)).collect();
    let mut args: Vec<&str> = flags.to_vec();
    args.extend(sources.iter().map(|s| s.to_str().unwrap()));
    args.extend(["-o", out.to_str().unwrap()]);
    run(compiler, &args, dir);
    out
}

/// Compiles the C test program, which includes a file in assembly.
pub fn c_program(flags: &[&str], dir: &Path, name: &str) -> PathBuf {
    let mut all = vec!["-O2"];
    all.extend(flags);
    compile("gcc", &all, &["main.c", "other.c", "asm.S"], dir, name)
}

/// Maps an ELF file.
pub fn open(path: &Path) -> Arc<ElfImage> {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Arc::new(ElfImage::open(&file).unwrap())
}

/// Symbolizes addresses and searches for debug files below `root`.
pub fn resolve(path: &Path, root: &Path, addresses: &[u64]) -> Batch {
    let image = open(path);
    let seen = Path::new("/").join(path.strip_prefix(root).unwrap());
    let files = RootedFiles::new(root);
    let found = find_debug_file(&image, &seen, &files);
    let addresses: Vec<Svma> = addresses.iter().map(|&a| Svma(a)).collect();
    ImageSymbols::new(image, &found).resolve_with(&addresses, &seen, &files)
}

/// Symbolizes addresses with the debug file that a search found.
pub fn at(image: Arc<ElfImage>, found: &DebugSearch, addresses: &[u64]) -> Batch {
    let addresses: Vec<Svma> = addresses.iter().map(|&a| Svma(a)).collect();
    ImageSymbols::new(image, found).resolve(&addresses)
}

/// Every `step`th address of a section.
pub fn addresses_of(path: &Path, section: &str, step: usize) -> Vec<u64> {
    let image = open(path);
    let s = image.section(section).unwrap();
    (s.svma.0..s.svma.0 + s.size).step_by(step).collect()
}

/// A frame as binutils prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TheirFrame {
    /// The linkage name; `??` for none.
    pub name: String,
    /// `??` for none.
    pub file: String,
    /// 0 for none.
    pub line: u32,
}

/// The output of `addr2line -ifa`.
pub fn binutils(path: &Path, addresses: &[u64]) -> Vec<Vec<TheirFrame>> {
    ask("addr2line", &["-ifa"], path, addresses)
}

/// The output of `llvm-symbolizer`, in the same form.
pub fn llvm(path: &Path, addresses: &[u64]) -> Vec<Vec<TheirFrame>> {
    let args = ["--output-style=GNU", "--no-demangle", "--inlines", "-f", "-a"];
    ask("llvm-symbolizer", &args, path, addresses)
}

fn ask(program: &str, args: &[&str], path: &Path, addresses: &[u64]) -> Vec<Vec<TheirFrame>> {
    let mut child = Command::new(program)
        .args(args)
        .arg("-e")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let text: String = addresses.iter().map(|a| format!("{a:#x}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let mut all: Vec<Vec<TheirFrame>> = Vec::new();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        all.last_mut().unwrap().push(TheirFrame {
            name: line.into(),
            file: file.into(),
            line: number.parse().unwrap_or(0),
        });
    }
    assert_eq!(all.len(), addresses.len());
    all
}

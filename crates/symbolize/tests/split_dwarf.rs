//! Compares a program built with split DWARF to one built without. All addresses must have the same
//! frames.

mod common;

use std::path::{Path, PathBuf};

use common::{addresses_of, at, open, resolve, run, source};
use symbolize::{Batch, DebugSearch, Losses, Rejection};

/// A program built with and without `-gsplit-dwarf`, in its own root directory.
struct Built {
    root: tempfile::TempDir,
    split: PathBuf,
    addresses: Vec<u64>,
    whole: Batch,
}

fn build(compiler: &str, flags: &[&str]) -> Built {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("build");
    std::fs::create_dir_all(&bin).unwrap();
    // Map the compilation directory to the target's view, where `root` is `/`.
    let map = format!("-fdebug-prefix-map={}=", root.path().display());
    let mut all = vec!["-O2", "-g", &map];
    all.extend(flags);
    let sources =
        if compiler.ends_with("++") { &["shapes.cc"][..] } else { &["main.c", "other.c"] };
    let one = build_in(&bin, compiler, &all, sources);
    let addresses = addresses_of(&one, ".text", 1);
    let whole = at(open(&one), &DebugSearch::default(), &addresses);
    assert_eq!(whole.losses, Losses::default());
    std::fs::remove_file(&one).unwrap();
    all.push("-gsplit-dwarf");
    let split = build_in(&bin, compiler, &all, sources);
    assert_eq!(addresses_of(&split, ".text", 1), addresses);
    Built { root, split, addresses, whole }
}

/// Compiles each source separately: clang writes the `.dwo` beside the object file.
fn build_in(bin: &Path, compiler: &str, flags: &[&str], sources: &[&str]) -> PathBuf {
    let mut objects = Vec::new();
    for name in sources {
        let object = format!("{}.o", name.split('.').next().unwrap());
        let path = source(name);
        let args = [flags, &["-c", path.to_str().unwrap(), "-o", &object]].concat();
        run(compiler, &args, bin);
        objects.push(object);
    }
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    run(compiler, &[objects.as_slice(), &["-o", "program"]].concat(), bin);
    for object in objects {
        std::fs::remove_file(bin.join(object)).unwrap();
    }
    bin.join("program")
}

impl Built {
    fn resolve(&self) -> Batch {
        resolve(&self.split, self.root.path(), &self.addresses)
    }

    fn assert_same_frames(&self, how: &str) {
        let batch = self.resolve();
        assert_eq!(batch.losses, Losses::default(), "{how}: {:?}", batch.rejected);
        for ((a, ours), whole) in self.addresses.iter().zip(&batch.symbols).zip(&self.whole.symbols)
        {
            assert_eq!(ours, whole, "{how}: {a:#x}");
        }
        let inlined = batch.symbols.iter().flatten().filter(|s| s.frames.len() > 1).count();
        assert!(inlined > 100, "{how}: {inlined}");
    }

    fn split_files(&self) -> Vec<PathBuf> {
        let folder = self.split.parent().unwrap();
        let paths = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        paths.filter(|p| p.extension().is_some_and(|e| e == "dwo")).collect()
    }
}

const MATRIX: &[(&str, &[&str])] = &[
    ("gcc", &["-gdwarf-5"]),
    ("gcc", &["-gdwarf-4"]),
    ("gcc", &["-gdwarf-5", "-fdebug-types-section"]),
    ("gcc", &["-gdwarf-5", "-gz=zlib"]),
    ("g++", &["-gdwarf-5"]),
    ("g++", &["-gdwarf-4"]),
    ("g++", &["-gdwarf-4", "-fdebug-types-section"]),
    ("clang", &["-gdwarf-5"]),
    ("clang", &["-gdwarf-4"]),
];

#[test]
fn dwo_files_are_found_where_the_compiler_wrote_them() {
    for (compiler, flags) in MATRIX {
        let built = build(compiler, flags);
        assert!(!built.split_files().is_empty(), "{compiler} {flags:?} wrote no .dwo");
        built.assert_same_frames(&format!("{compiler} {flags:?}"));
    }
}

#[test]
fn a_dwp_file_beside_the_program_replaces_dwo_files() {
    for (compiler, flags) in MATRIX {
        // On Debian 12, binutils' dwp does not support DWARF 5, and llvm-dwp never terminates on
        // gcc's DWARF 5.
        let tool = match (*compiler, flags[0]) {
            (_, "-gdwarf-4") => "dwp",
            ("clang", _) => "llvm-dwp",
            _ => continue,
        };
        let how = format!("{compiler} {flags:?}");
        let built = build(compiler, flags);
        let folder = built.split.parent().unwrap();
        let files = built.split_files();
        let names: Vec<&str> = files.iter().map(|f| f.to_str().unwrap()).collect();
        run(tool, &[&["-o", "program.dwp"], names.as_slice()].concat(), folder);
        // Version 2 is the GNU package format of gcc 4.7 to 10, version 5 that of DWARF 5.
        let index = dwarf_index_version(&folder.join("program.dwp"));
        assert_eq!(index, if flags[0] == "-gdwarf-4" { 2 } else { 5 }, "{how}");
        for file in &files {
            std::fs::remove_file(file).unwrap();
        }
        built.assert_same_frames(&how);
    }
}

/// The version of `.debug_cu_index`: a 32-bit word before DWARF 5, since then 16 bits and padding.
fn dwarf_index_version(package: &Path) -> u16 {
    use object::{Object as _, ObjectSection as _};
    let bytes = std::fs::read(package).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let section = file.section_by_name(".debug_cu_index").expect("an index");
    u16::from_le_bytes(section.data().unwrap()[..2].try_into().unwrap())
}

#[test]
fn dwo_files_that_moved_with_the_program_are_found_beside_it() {
    let built = build("gcc", &["-gdwarf-5"]);
    let from = built.split.parent().unwrap().to_owned();
    let to = built.root.path().join("opt/elsewhere");
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(from, &to).unwrap();
    let built = Built { split: to.join("program"), ..built };
    built.assert_same_frames("moved");
}

#[test]
fn without_dwo_files_lines_and_symbols_remain_and_the_loss_is_reported() {
    let built = build("gcc", &["-gdwarf-5"]);
    let files = built.split_files();
    for file in &files {
        std::fs::remove_file(file).unwrap();
    }
    let batch = built.resolve();
    assert_eq!(batch.losses.missing_split_units as usize, files.len());
    let names: Vec<&Path> = batch.rejected.iter().map(|a| a.path.as_path()).collect();
    assert!(names.iter().any(|n| n.extension().is_some_and(|e| e == "dwo")), "{names:?}");
    let of = |b: &Batch, i: usize| {
        let symbol = b.symbols[i].as_ref().ok();
        // The two names of one function count as equal.
        symbol.map(|s| s.frames.last().unwrap().system_name.replace("alias_work", "exported_work"))
    };
    let mut lines = 0;
    for i in 0..built.addresses.len() {
        assert_eq!(of(&batch, i), of(&built.whole, i), "{:#x}", built.addresses[i]);
        lines += usize::from(batch.symbols[i].as_ref().is_ok_and(|s| s.frames[0].line.is_some()));
    }
    assert!(lines > 200, "{lines}");
}

#[test]
fn dwo_files_of_another_build_are_rejected() {
    let (one, other) = (build("gcc", &["-gdwarf-5"]), build("gcc", &["-gdwarf-5", "-O1"]));
    for file in one.split_files() {
        std::fs::copy(other.split.parent().unwrap().join(file.file_name().unwrap()), &file)
            .unwrap();
    }
    let batch = one.resolve();
    assert_eq!(batch.losses.missing_split_units, 2);
    assert!(batch.rejected.iter().any(|a| matches!(a.rejection, Rejection::SplitUnit)));
}

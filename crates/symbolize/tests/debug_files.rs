//! Tests that separate debug files are found where gdb finds them, and that those of other builds
//! are rejected.

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{addresses_of, at, c_program, open, resolve, run};
use symbolize::{
    Batch, DebugSearch, DebugSource, Losses, NameSource, NoSymbol, Rejection, RootedFiles,
    find_debug_file,
};

/// A program in its own root directory: unstripped, and stripped with a debug file.
struct Split {
    root: tempfile::TempDir,
    whole: PathBuf,
    stripped: PathBuf,
    debug: PathBuf,
}

fn split(flags: &[&str]) -> Split {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("opt/app");
    std::fs::create_dir_all(&bin).unwrap();
    let whole = c_program(flags, &bin, "whole");
    let (stripped, debug) = (bin.join("program"), bin.join("program.debug"));
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    run("objcopy", &["--only-keep-debug", &text(&whole), &text(&debug)], &bin);
    run("objcopy", &["--strip-all", &text(&whole), &text(&stripped)], &bin);
    run("objcopy", &["--add-gnu-debuglink=program.debug", &text(&stripped)], &bin);
    Split { root, whole, stripped, debug }
}

impl Split {
    fn search(&self) -> DebugSearch {
        let seen = Path::new("/").join(self.stripped.strip_prefix(self.root.path()).unwrap());
        find_debug_file(&open(&self.stripped), &seen, &RootedFiles::new(self.root.path()))
    }

    fn addresses(&self) -> Vec<u64> {
        addresses_of(&self.whole, ".text", 3)
    }

    /// Checks that the stripped program gives the same frames as the unstripped one.
    fn assert_complete(&self) {
        let addresses = self.addresses();
        let whole = at(open(&self.whole), &DebugSearch::default(), &addresses);
        let found = resolve(&self.stripped, self.root.path(), &addresses);
        assert!(whole.symbols.iter().flatten().any(|s| s.source == NameSource::Dwarf));
        same(&whole, &found);
    }

    fn move_debug(&self, to: &str) {
        let to = self.root.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(&self.debug, to).unwrap();
    }
}

fn same(a: &Batch, b: &Batch) {
    assert_eq!((a.losses, b.losses), (Losses::default(), Losses::default()));
    for (a, b) in a.symbols.iter().zip(&b.symbols) {
        assert_eq!(a, b);
    }
}

#[test]
fn a_debug_link_is_searched_for_in_three_directories() {
    let program = split(&["-g", "-Wl,--build-id=none"]);
    let name = [
        "opt/app/program.debug",
        "opt/app/.debug/program.debug",
        "usr/lib/debug/opt/app/program.debug",
    ];
    for place in name {
        if place != name[0] {
            let from = name[name.iter().position(|p| *p == place).unwrap() - 1];
            std::fs::rename(program.root.path().join(from), &program.debug).unwrap();
            program.move_debug(place);
        }
        let found = program.search();
        let file = found.file.as_ref().unwrap_or_else(|| panic!("{place}: {:?}", found.rejected));
        assert_eq!(file.source, DebugSource::DebugLink);
        assert_eq!(file.path, Path::new("/").join(place));
        program.assert_complete();
    }
}

#[test]
fn a_debug_file_is_found_by_build_id() {
    let program = split(&["-g", "-Wl,--build-id"]);
    let id = open(&program.stripped).build_id_hex();
    program.move_debug(&format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
    assert_eq!(program.search().file.unwrap().source, DebugSource::BuildId);
    program.assert_complete();
}

#[test]
fn the_debug_file_of_another_build_is_rejected() {
    let program = split(&["-g", "-Wl,--build-id=none"]);
    let mut bytes = std::fs::read(&program.debug).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&program.debug, bytes).unwrap();
    let found = program.search();
    assert!(found.file.is_none());
    assert!(found.rejected.iter().any(|a| matches!(a.rejection, Rejection::Checksum)));
    let batch = resolve(&program.stripped, program.root.path(), &program.addresses());
    assert!(batch.symbols.iter().all(|s| *s == Err(NoSymbol::NoTables)));

    let (one, other) = (split(&["-g", "-Wl,--build-id"]), split(&["-g", "-O1", "-Wl,--build-id"]));
    std::fs::copy(&other.debug, &one.debug).unwrap();
    let found = one.search();
    assert!(found.file.is_none());
    assert!(found.rejected.iter().any(|a| matches!(a.rejection, Rejection::BuildId)));
}

#[test]
fn a_pipe_or_directory_instead_of_a_debug_file_does_not_block() {
    let program = split(&["-g", "-Wl,--build-id=none"]);
    std::fs::remove_file(&program.debug).unwrap();
    run("mkfifo", &[program.debug.to_str().unwrap()], program.root.path());
    std::fs::create_dir_all(program.root.path().join("opt/app/.debug/program.debug")).unwrap();
    let below = program.root.path().join("usr/lib/debug/opt/app");
    std::fs::create_dir_all(&below).unwrap();
    symlink("/dev/zero", below.join("program.debug")).unwrap();
    let found = program.search();
    assert!(found.file.is_none());
    assert_eq!(found.rejected.len(), 3);
    assert!(found.rejected.iter().all(|a| matches!(a.rejection, Rejection::Io(_))), "{found:?}");
}

#[test]
fn a_debug_file_with_symbols_only_is_used() {
    let program = split(&["-Wl,--build-id=none"]);
    let batch = resolve(&program.stripped, program.root.path(), &program.addresses());
    let named = batch.symbols.iter().flatten();
    assert!(named.clone().count() > 100);
    assert!(named.clone().all(|s| s.source == NameSource::Symtab));
    assert!(named.clone().any(|s| &*s.frames[0].name == "other"));
}

#[test]
fn references_to_the_common_file_of_dwz_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("opt");
    std::fs::create_dir_all(&bin).unwrap();
    let one = c_program(&["-g", "-gdwarf-4", "-no-pie"], &bin, "one");
    let two = c_program(&["-g", "-gdwarf-4", "-no-pie"], &bin, "two");
    let addresses = addresses_of(&one, ".text", 1);
    let before = at(open(&one), &DebugSearch::default(), &addresses);
    run("dwz", &["-m", "common", "-h", "one", "two"], &bin);
    assert!(open(&one).section(".gnu_debugaltlink").is_some(), "dwz moved nothing");
    drop(two);
    let seen = Path::new("/opt/one");
    let found = find_debug_file(&open(&one), seen, &RootedFiles::new(root.path()));
    assert!(found.supplementary.is_some(), "{found:?}");
    same(&before, &at(open(&one), &found, &addresses));
    // Without the common file, names may be missing, but none may be wrong.
    let alone = at(open(&one), &DebugSearch::default(), &addresses);
    assert!(alone.symbols.iter().flatten().all(|s| !s.frames.is_empty()));
    assert_ne!(alone.symbols, before.symbols);
}

#[test]
fn dwz_within_one_file_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let one = c_program(&["-g", "-gdwarf-5"], root.path(), "one");
    let addresses = addresses_of(&one, ".text", 1);
    let before = at(open(&one), &DebugSearch::default(), &addresses);
    run("dwz", &["one", "-o", "small"], root.path());
    same(&before, &at(open(&root.path().join("small")), &DebugSearch::default(), &addresses));
}

#[test]
fn compressed_sections_give_the_same_results() {
    let root = tempfile::tempdir().unwrap();
    let one = c_program(&["-g"], root.path(), "one");
    let addresses = addresses_of(&one, ".text", 1);
    let before = at(open(&one), &DebugSearch::default(), &addresses);
    for method in ["zlib-gabi", "zlib-gnu", "zstd"] {
        let how = format!("--compress-debug-sections={method}");
        run("objcopy", &[&how, "one", "packed"], root.path());
        let packed = root.path().join("packed");
        let image = open(&packed);
        let info = image.section(".debug_info");
        assert!(info.is_none_or(|s| s.compressed), "{method}");
        same(&before, &at(image, &DebugSearch::default(), &addresses));
    }
}

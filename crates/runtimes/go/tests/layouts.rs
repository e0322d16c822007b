//! Compares the table of runtime offsets with the source and the DWARF of each toolchain.

mod common;

use std::collections::HashMap;
use std::process::Command;

use common::{Build, VERSIONS, build, for_each_version, goroot, workspace};
use goruntime::Layout;
use image::ElfImage;

fn image_at(path: &std::path::Path) -> ElfImage {
    let file = std::fs::File::open(path).expect("the program");
    ElfImage::open(&file).expect("an ELF file")
}

#[test]
fn offsets_match_the_toolchain() {
    for_each_version(|version| {
        let output = Command::new(workspace().join("scripts/go-offsets"))
            .arg(goroot(version))
            .env("GOCACHE", workspace().join(".cache/gocache"))
            .env("GOMAXPROCS", "1")
            .output()
            .expect("scripts/go-offsets");
        let text = String::from_utf8(output.stdout).expect("text");
        let printed: HashMap<&str, Option<u64>> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, offset)| (name, offset.parse().ok()))
            .collect();
        let minor = version.split('.').nth(1).and_then(|m| m.parse().ok()).expect("a version");
        let rows = Layout::of_minor(minor).expect("a layout").rows();
        for (name, offset) in rows {
            let theirs = printed.get(name);
            assert_eq!(
                Some(&offset),
                theirs,
                "{version}: {name}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    });
}

/// For versions that are not in the table, the layout is read from DWARF. For versions in the
/// table, both must agree.
#[test]
fn offsets_match_dwarf() {
    for_each_version(|version| {
        let minor: u32 = version.split('.').nth(1).and_then(|m| m.parse().ok()).expect("a version");
        for how in [Build::Plain, Build::Pie] {
            let from_dwarf = Layout::of_dwarf(minor, &image_at(&build(version, "plain", how)));
            // A row is `None` if the version lacks the field, or if DWARF omits it because the
            // program does not refer to it.
            let from_dwarf = from_dwarf.unwrap_or_else(|| panic!("{version} {how:?}"));
            let measured = Layout::of_minor(minor).expect("a layout");
            for (row, measured) in from_dwarf.rows().into_iter().zip(measured.rows()) {
                assert!(row == measured || row.1.is_none(), "{version}: {row:?} {measured:?}");
            }
        }
    });
}

/// `ld` and `objcopy` can compress with zstd, while Go's linker compresses with zlib.
#[test]
fn dwarf_compressed_with_zstd_has_the_same_layout() {
    let version = VERSIONS[VERSIONS.len() - 1];
    let minor: u32 = version.split('.').nth(1).and_then(|m| m.parse().ok()).expect("a version");
    let program = build(version, "plain", Build::Plain);
    let dir = tempfile::tempdir().expect("a folder");
    let (plain, zstd) = (dir.path().join("plain"), dir.path().join("zstd"));
    for (option, from, to) in [
        ("--decompress-debug-sections", &program, &plain),
        ("--compress-debug-sections=zstd", &plain, &zstd),
    ] {
        let status = Command::new("objcopy").arg(option).arg(from).arg(to).status();
        assert!(status.expect("objcopy").success(), "objcopy {option}");
    }
    let (original, zstd) = (image_at(&program), image_at(&zstd));
    let section = zstd.section(".debug_info").expect("debug information");
    assert!(section.compressed && section.data.starts_with(&[2, 0, 0, 0]), "ELFCOMPRESS_ZSTD");
    let expected = Layout::of_dwarf(minor, &original).expect("a layout").rows();
    assert_eq!(Layout::of_dwarf(minor, &zstd).expect("a layout").rows(), expected);
}

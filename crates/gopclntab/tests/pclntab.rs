//! Compares the parsed Go line table with the output of Go's own tools.

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;

use common::{BUILDS, Build, build, for_each_version, go};
use gopclntab::{GoVersion, LineTable};
use image::{ElfImage, Svma};

fn open(path: &std::path::Path) -> Arc<ElfImage> {
    Arc::new(ElfImage::open(&File::open(path).expect("the program")).expect("an ELF file"))
}

#[test]
fn every_symbol_is_found_with_its_name() {
    for_each_version(|version| {
        let path = build(version, "truth", Build::Plain);
        let table = LineTable::from_image(&open(&path)).expect("a line table");
        let nm = go(version).args(["tool", "nm"]).arg(&path).output().expect("go tool nm");
        let symbols = String::from_utf8(nm.stdout).expect("text");
        let mut checked = 0;
        for line in symbols.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[address, "T" | "t", ..] = &words[..] else { continue };
            // A name may contain spaces: struct types in type arguments.
            let name = line.split_once(" T ").or_else(|| line.split_once(" t "));
            let name = name.expect("a name").1.trim();
            // Skip markers, which are not functions, and symbols named after an ABI by the linker.
            if name.starts_with("runtime.text")
                || name.starts_with("runtime.etext")
                || name.ends_with(".abi0")
                || name.starts_with('_')
            {
                continue;
            }
            let address = Svma(u64::from_str_radix(address, 16).expect("an address"));
            let f = table.function_at(address).unwrap_or_else(|| panic!("{version}: {name}"));
            // nm prints the compiler's middle dot as a full stop.
            assert_eq!(
                (f.entry(), f.name().replace('·', ".")),
                (address, name.into()),
                "{version}"
            );
            checked += 1;
        }
        assert!(checked > 1000, "{version}: only {checked} symbols");
    });
}

/// Compares several thousand addresses across the program with `go tool addr2line`: the function
/// that contains the code, and the position of the innermost inlined call.
#[test]
fn positions_match_go_tool_addr2line() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Pie, Build::Cgo] {
            let path = build(version, "truth", how);
            let table = LineTable::from_image(&open(&path)).expect("a line table");
            let within = |f: &gopclntab::Function<'_>| {
                (f.entry().0..f.end().0).step_by(89).map(Svma).collect::<Vec<_>>()
            };
            let all: Vec<Svma> = table.functions().flat_map(|f| within(&f)).collect();
            let sampled: Vec<Svma> = all.iter().copied().step_by(all.len() / 5_000 + 1).collect();
            let theirs = addr2line(version, &path, &sampled);
            for (address, theirs) in sampled.iter().zip(&theirs) {
                let f = table.function_at(*address).expect("the function");
                let innermost = f.frames(*address).next().expect("a frame");
                // addr2line prints line -1 after a function's last instruction.
                let position = innermost.position.map_or(":-1".into(), |(f, l)| format!("{f}:{l}"));
                let ours = (f.name().into_owned(), position);
                assert_eq!(ours, *theirs, "{version} {how:?}: {address}");
            }
            let unknown = theirs.iter().filter(|(_, position)| position == ":-1").count();
            assert!(unknown * 10 < theirs.len(), "{version} {how:?}: {unknown} without a line");
            assert!(theirs.len() > 2_000, "{version} {how:?}: {} addresses", theirs.len());
        }
    });
}

/// The function and position of each address.
fn addr2line(version: &str, path: &std::path::Path, addresses: &[Svma]) -> Vec<(String, String)> {
    let mut child = go(version)
        .args(["tool", "addr2line"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("go tool addr2line");
    let input: String = addresses.iter().map(|a| format!("{:#x}\n", a.0)).collect();
    let mut stdin = child.stdin.take().expect("stdin");
    // Both pipes may fill up, so write on another thread while this one reads.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("go tool addr2line");
    writer.join().expect("the writer").expect("all addresses were written");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2 * addresses.len(), "{}", String::from_utf8_lossy(&output.stderr));
    lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

#[test]
fn every_build_has_a_version_and_inline_trees() {
    for_each_version(|version| {
        for how in BUILDS {
            let image = open(&build(version, "truth", how));
            let found = GoVersion::of_image(&image).expect("a version");
            assert_eq!(found.text, format!("go{version}"));
            let table = LineTable::from_image(&image).expect("a line table");
            assert!(table.has_inline_trees(), "{version} {how:?}");
            let special = table.special();
            assert!(special.wrapper > special.sigpanic, "{version} {how:?}: {special:?}");
        }
    });
}

/// Debian builds Prometheus with Go 1.19 and strips it.
#[test]
fn debian_prometheus_is_read() {
    let image = open(std::path::Path::new("/usr/bin/prometheus"));
    assert_eq!(GoVersion::of_image(&image).expect("a version").minor, 19);
    let table = LineTable::from_image(&image).expect("a line table");
    assert!(table.len() > 50_000 && table.has_inline_trees());
    let f = table.function_named("runtime.gopark").expect("gopark");
    let (file, line) = f.position(f.entry()).expect("a position");
    assert!(file.ends_with("runtime/proc.go") && line > 300, "{file}:{line}");
    assert!(table.function_named("main.main").is_some());
}

/// Random damage never causes a panic or an endless loop.
#[test]
fn damaged_tables_are_harmless() {
    let path = build("1.27.3", "truth", Build::Plain);
    let whole = std::fs::read(&path).expect("the program");
    let image = open(&path);
    let section = image.section(".gopclntab").expect("a table");
    let start = section.data.as_ptr() as usize - image.bytes().as_ptr() as usize;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let mut outcomes = HashMap::new();
    for round in 0..60 {
        let mut bytes = whole.clone();
        // Damage the header in every third round, the whole table in the others.
        let range = if round % 3 == 0 { 72 } else { section.data.len() };
        for _ in 0..[4, 1000, 100_000][round % 3] {
            bytes[start + random() % range] = random() as u8;
        }
        let damaged = ElfImage::parse(image::ImageBytes::Owned(bytes)).expect("still ELF");
        let outcome = match LineTable::from_image(&Arc::new(damaged)) {
            Err(_) => "rejected",
            Ok(table) => {
                table.special();
                for i in 0..2000 {
                    let pc = Svma(table.text().0.wrapping_add((i * 997) as u64));
                    if let Some(f) = table.function_at(pc) {
                        f.frames(pc).for_each(drop);
                        std::hint::black_box(f.sp_delta(pc));
                    }
                }
                "read"
            }
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    assert!(outcomes.len() == 2, "damage was always or never detected: {outcomes:?}");
}

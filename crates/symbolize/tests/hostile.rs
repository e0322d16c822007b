//! Tests that hostile images cause neither panics nor unbounded time or memory.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{addresses_of, at, compile, run};
use image::{ElfImage, ImageBytes};
use symbolize::{DebugSearch, Losses, NameSource, NoSymbol, RootedFiles, find_debug_file};

/// A random number generator with a fixed seed, so that failures can be reproduced.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Flips bytes, mostly in headers and in the sections that this crate reads.
fn mutate(bytes: &mut Vec<u8>, targets: &[(usize, usize)], random: &mut Random) {
    for _ in 0..=random.below(24) {
        let (start, len) = targets[random.below(targets.len())];
        let at = start + random.below(len);
        let Some(byte) = bytes.get_mut(at) else { continue };
        *byte = match random.below(4) {
            0 => random.next() as u8,
            1 => 0xff,
            2 => byte.wrapping_add(1),
            _ => 0,
        };
    }
    if random.below(8) == 0 {
        let len = random.below(bytes.len());
        bytes.truncate(len);
    }
}

fn survive_mutations(path: &Path, rounds: usize, seed: u64) {
    let original = std::fs::read(path).unwrap();
    let image = common::open(path);
    let base = original.as_ptr() as usize;
    let inner = image.bytes().as_ptr() as usize;
    let mut targets = vec![(0, 1024), (original.len() - 4096, 4096)];
    for (name, s) in image.sections() {
        if (name.contains("debug")
            || name.contains("sym")
            || name.contains("rela")
            || name.contains("plt"))
            && !s.data.is_empty()
        {
            targets.push((s.data.as_ptr() as usize - inner, s.data.len()));
        }
    }
    assert!(base != 0 && targets.len() > 8);
    let mut addresses = addresses_of(path, ".text", 61);
    addresses.extend(addresses_of(path, ".plt", 16));
    let files = RootedFiles::new("/nowhere");
    let mut random = Random(seed);
    let (mut parsed, mut damaged) = (0, 0);
    for _ in 0..rounds {
        let mut bytes = original.clone();
        mutate(&mut bytes, &targets, &mut random);
        let Ok(image) = ElfImage::parse(ImageBytes::Owned(bytes)) else { continue };
        parsed += 1;
        let image = Arc::new(image);
        let found = find_debug_file(&image, Path::new("/opt/x"), &files);
        let batch = at(image, &found, &addresses);
        assert_eq!(batch.symbols.len(), addresses.len());
        assert!(
            batch.symbols.iter().flatten().all(|s| !s.frames.is_empty() && s.frames.len() <= 257)
        );
        damaged += usize::from(batch.losses != Losses::default());
    }
    assert!(parsed > rounds / 2 && damaged > 0, "{parsed} parsed, {damaged} damaged");
}

#[test]
fn random_damage_to_an_image_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["-O2", "-g"];
    for (n, version) in ["-gdwarf-5", "-gdwarf-4", "-gdwarf-2"].into_iter().enumerate() {
        let flags = [flags[0], flags[1], version];
        let path = compile("g++", &flags, &["shapes.cc"], dir.path(), "cpp");
        survive_mutations(&path, 150, 0x9e37_79b9_7f4a_7c15 + n as u64);
        let path = common::c_program(&flags[1..], dir.path(), "c");
        survive_mutations(&path, 400, 0x1234_5678_9abc_def1 + n as u64);
    }
    let path = common::c_program(&["-g", "-gz=zlib"], dir.path(), "packed");
    survive_mutations(&path, 300, 0xfeed_f00d);
}

/// Assembles an object with only the given sections, without relocations.
fn object(dir: &Path, text: &str) -> PathBuf {
    let (source, out) = (dir.join("bomb.S"), dir.join("bomb.o"));
    std::fs::write(&source, text).unwrap();
    run("gcc", &["-c", source.to_str().unwrap(), "-o", out.to_str().unwrap()], dir);
    out
}

/// The DWARF abbreviations and the start of the unit. Abbreviations: 1 the unit, with low and high
/// pc; 2 a function with name, low and high pc; 3 an inlined call with an origin, low and high pc;
/// 4 a function with a name and a range list; 5 a function whose origin is a DIE of this unit.
const ABBREV: &str = r#"
    .macro attr at, form
    .uleb128 \at
    .uleb128 \form
    .endm
    .section .debug_abbrev,"",@progbits
    .byte 1, 0x11, 1
    attr 0x11, 0x01
    attr 0x12, 0x07
    .byte 0, 0
    .byte 2, 0x2e, 1
    attr 0x03, 0x08
    attr 0x11, 0x01
    attr 0x12, 0x07
    .byte 0, 0
    .byte 3, 0x1d, 1
    attr 0x31, 0x13
    attr 0x11, 0x01
    attr 0x12, 0x07
    .byte 0, 0
    .byte 4, 0x2e, 0
    attr 0x03, 0x08
    attr 0x55, 0x17
    .byte 0, 0
    .byte 5, 0x2e, 0
    attr 0x31, 0x13
    attr 0x11, 0x01
    attr 0x12, 0x07
    .byte 0, 0
    .byte 0
    .section .debug_info,"",@progbits
    .long end - start
start:
    .short 4
    .long 0
    .byte 8
    .byte 1
    .quad 0x1000
    .quad 0x1000000
"#;

fn dwarf(dir: &Path, info: &str, rest: &str) -> PathBuf {
    object(dir, &format!("{ABBREV}\n{info}\nend:\n{rest}"))
}

fn ask(path: &Path, address: u64) -> symbolize::Batch {
    at(common::open(path), &DebugSearch::default(), &[address])
}

#[test]
fn a_million_nested_inlined_calls_do_not_overflow_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let info = r#"
        .byte 2
        .asciz "deep"
        .quad 0x1000
        .quad 0x1000
        .rept 1000000
        .byte 3
        .long 0x1c
        .quad 0x1000
        .quad 0x1000
        .endr
    "#;
    let batch = ask(&dwarf(dir.path(), info, ""), 0x1800);
    let s = batch.symbols[0].as_ref().unwrap();
    assert_eq!(&*s.frames.last().unwrap().name, "deep");
    assert!((200..=256).contains(&s.frames.len()), "{}", s.frames.len());
}

#[test]
fn a_range_list_that_a_million_functions_share_is_not_read_a_million_times() {
    let dir = tempfile::tempdir().unwrap();
    let info = r#"
        .rept 1000000
        .byte 4
        .asciz "f"
        .long 0
        .endr
    "#;
    // No range contains the address, so the ranges of all functions are examined.
    let ranges = r#"
        .section .debug_ranges,"",@progbits
        .rept 100000
        .quad 0x10, 0x20
        .endr
        .quad 0, 0
    "#;
    let batch = ask(&dwarf(dir.path(), info, ranges), 0x1800);
    assert!(batch.losses.limit_reached);
    assert_eq!(batch.symbols[0], Err(NoSymbol::Limit));
}

#[test]
fn an_origin_that_refers_to_itself_terminates() {
    let dir = tempfile::tempdir().unwrap();
    // The first DIE after the root, at 0x1c, is its own origin.
    let info = ".byte 5\n .long 0x1c\n .quad 0x1000\n .quad 0x1000\n .byte 0";
    let batch = ask(&dwarf(dir.path(), info, ""), 0x1800);
    assert_eq!(batch.symbols[0], Err(NoSymbol::LineOnly));
}

/// The DIEs at 0x1c and 0x31, after the root, refer to each other as origin. The function at 0x46
/// contains an inlined call of the first.
#[test]
fn a_cycle_of_origins_terminates() {
    let dir = tempfile::tempdir().unwrap();
    let info = r#"
        .byte 5
        .long 0x31
        .quad 0x100
        .quad 0x10
        .byte 5
        .long 0x1c
        .quad 0x200
        .quad 0x10
        .byte 2
        .asciz "outer"
        .quad 0x1000
        .quad 0x1000
        .byte 3
        .long 0x1c
        .quad 0x1000
        .quad 0x1000
        .byte 0, 0, 0
    "#;
    let batch = ask(&dwarf(dir.path(), info, ""), 0x1800);
    // After a few steps, the call is given up and omitted, because it has no name.
    let s = batch.symbols[0].as_ref().unwrap();
    assert_eq!(s.frames.iter().map(|f| &*f.name).collect::<Vec<_>>(), ["outer"]);
    assert_eq!((batch.losses.nameless_inlines, batch.losses.limit_reached), (1, false));
}

/// A hundred thousand DIEs, each with the next one as its origin. Only the last one has a name.
#[test]
fn a_long_chain_of_origins_is_not_followed_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let chain = |length: u32| {
        let info = format!(
            r#"
            .byte 2
            .asciz "outer"
            .quad 0x1000
            .quad 0x1000
            .byte 3
            .long here - start + 4
            .quad 0x1000
            .quad 0x1000
            .byte 0, 0
            here:
            .rept {length}
            .byte 5
            .long 1f - start + 4
            .quad 0x100
            .quad 0x10
            1:
            .endr
            .byte 2
            .asciz "last"
            .quad 0x100
            .quad 0x10
            .byte 0, 0
        "#
        );
        let batch = ask(&dwarf(dir.path(), &info, ""), 0x1800);
        assert!(!batch.losses.limit_reached);
        let s = batch.symbols[0].as_ref().unwrap();
        s.frames.iter().map(|f| f.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(chain(2), ["last", "outer"]);
    assert_eq!(chain(100_000), ["outer"], "without the inlined call's name");
}

#[test]
fn a_damaged_unit_affects_neither_earlier_functions_nor_other_units() {
    let dir = tempfile::tempdir().unwrap();
    let unit = |n: u32, low: u32, die: &str| {
        format!(
            ".long end{n} - start{n}\nstart{n}: .short 4\n .long 0\n .byte 8, 1\n .quad {low}\n .quad 0x1000\n
             .byte 2\n .asciz \"name{n}\"\n .quad {low}\n .quad 0x800\n .byte 0\n {die}\nend{n}:\n"
        )
    };
    // There is no abbreviation 99.
    let info = format!(
        ".byte 0\nend:\n{}{}",
        unit(1, 0x2000000, ".byte 99, 1, 2, 3"),
        unit(2, 0x3000000, ".byte 0")
    );
    let path = object(dir.path(), &format!("{ABBREV}\n{info}"));
    let addresses = [0x2000400, 0x2000c00, 0x3000400];
    let batch = at(common::open(&path), &DebugSearch::default(), &addresses);
    let name = |i: usize| batch.symbols[i].clone().map(|s| s.frames[0].name.to_string());
    assert_eq!(name(0).as_deref(), Ok("name1"));
    assert_eq!(name(1), Err(NoSymbol::NotCovered));
    assert_eq!(name(2).as_deref(), Ok("name2"));
    assert_eq!(batch.symbols[2].as_ref().unwrap().source, NameSource::Dwarf);
    assert!(batch.losses.broken_units > 0);
}

#[test]
fn overlapping_symbols_terminate() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
        .text
        .skip 65536
        .altmacro
        .macro one n
        .local s\n
        .type s\n, @function
        .set s\n, .text + \n
        .size s\n, 65536
        .endm
        .set i, 0
        .rept 8192
        one %i
        .set i, i + 1
        .endr
    "#;
    let path = object(dir.path(), text);
    let all: Vec<u64> = (0..65536).collect();
    let batch = at(common::open(&path), &DebugSearch::default(), &all);
    assert!(batch.losses.limit_reached);
    assert!(batch.symbols.iter().flatten().count() > 1000);
}

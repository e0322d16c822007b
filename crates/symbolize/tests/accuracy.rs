//! Symbolizes real programs and compares with binutils, LLVM and the addr2line crate.

mod common;

use std::borrow::Cow;
use std::path::Path;

use common::{
    TheirFrame, addresses_of, at, binutils, c_program, compile, llvm, open, resolve, run, source,
};
use symbolize::{Batch, DebugSearch, Frame, NameSource, NoSymbol, Symbolized};

/// How many addresses have the same frames as in other symbolizers.
#[derive(Default, Debug)]
struct Agreement {
    addresses: usize,
    /// Equal to binutils.
    equal: usize,
    /// Equal to llvm-symbolizer, but not to binutils.
    llvm_only: usize,
    inlined: usize,
    deepest: usize,
    differing: Vec<String>,
}

impl Agreement {
    fn agreed(&self) -> usize {
        self.equal + self.llvm_only
    }
}

/// Compares all frames of each address with binutils, and with llvm-symbolizer if they differ:
/// binutils 2.40 prints the name of another frame if an inlined call has several ranges, and for
/// some line tables the wrong one of two files. Permitted differences:
/// - the name may be that of a variant (`.constprop.0`, `.cold`) of the function;
/// - in padding, which neither a function in DWARF nor a symbol covers, both print one frame with
///   the preceding symbol, while this crate reports no name;
/// - a relative compilation directory may be prepended to directory 0 once or twice.
fn compare(path: &Path, addresses: &[u64], batch: &Batch) -> Agreement {
    let mut all = Agreement::default();
    let others = binutils(path, addresses).into_iter().zip(llvm(path, addresses));
    for ((address, ours), (gnu, llvm)) in addresses.iter().zip(&batch.symbols).zip(others) {
        let padding = ours.is_err() && gnu.len() == 1 && llvm.len() == 1;
        if gnu[0].name == "??" || padding {
            continue;
        }
        all.addresses += 1;
        let frames = ours.as_ref().map(|s| s.frames.as_slice()).unwrap_or_default();
        if same(frames, &gnu) {
            all.equal += 1;
        } else if same(frames, &llvm) {
            all.llvm_only += 1;
        } else {
            let text = format!("{address:#x}\n  ours {ours:?}\n  gnu  {gnu:?}\n  llvm {llvm:?}");
            all.differing.push(text);
            continue;
        }
        all.inlined += usize::from(frames.len() > 1);
        all.deepest = all.deepest.max(frames.len());
    }
    all
}

fn same(ours: &[Frame], theirs: &[TheirFrame]) -> bool {
    let base = |n: &str| n.split('.').next().unwrap_or_default().to_owned();
    let same_file = |ours: Option<&str>, theirs: &str| match ours {
        Some(o) => o == theirs || (o.starts_with("./") && theirs.ends_with(&o[1..])),
        None => !theirs.starts_with('/'),
    };
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|(o, t)| {
            base(&o.system_name) == base(&t.name)
                && o.line.unwrap_or(0) == t.line
                && same_file(o.file.as_deref(), &t.file)
        })
}

fn assert_agreement(path: &Path, addresses: &[u64], batch: &Batch) -> Agreement {
    let all = compare(path, addresses, batch);
    let shown = all.differing.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        all.differing.is_empty(),
        "{} of {} differ:\n{shown}",
        all.differing.len(),
        all.addresses
    );
    assert_eq!(batch.losses, symbolize::Losses::default());
    all
}

fn function<'a>(batch: &'a Batch, name: &str) -> &'a Symbolized {
    batch
        .symbols
        .iter()
        .flatten()
        .find(|s| &*s.frames.last().unwrap().name == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn all_addresses_of_a_c_program_agree_in_each_dwarf_version() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [
        &["-g", "-gdwarf-5"][..],
        &["-g", "-gdwarf-4"],
        &["-g", "-gdwarf-3", "-gno-strict-dwarf"],
        &["-g", "-gdwarf-2", "-gno-strict-dwarf"],
        &["-g", "-no-pie"],
        &["-g", "-static-pie"],
        &["-g", "-gz=zlib"],
        &["-g", "-gz=zlib-gnu"],
        &["-g", "-flto"],
        &["-g", "-fdebug-types-section"],
    ] {
        let path = c_program(flags, dir.path(), "program");
        let mut addresses = addresses_of(&path, ".text", 1);
        if flags.contains(&"-static-pie") {
            addresses.truncate(4000);
        }
        let batch = at(open(&path), &DebugSearch::default(), &addresses);
        let all = assert_agreement(&path, &addresses, &batch);
        assert!(all.agreed() > 300 && all.inlined > 200, "{flags:?}: {all:?}");
        assert!(all.deepest >= 5, "{flags:?}: level1 to level4 within a function: {all:?}");
    }
}

#[test]
fn clang_agrees_too() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["-gdwarf-5", "-gdwarf-4", "-gdwarf-3", "-gdwarf-2"] {
        let flags = ["-O2", "-g", version];
        let path = compile("clang", &flags, &["main.c", "other.c"], dir.path(), "program");
        let addresses = addresses_of(&path, ".text", 1);
        let batch = at(open(&path), &DebugSearch::default(), &addresses);
        let all = assert_agreement(&path, &addresses, &batch);
        assert!(all.inlined > 200 && all.deepest >= 5, "{all:?}");
    }
}

#[test]
fn all_addresses_of_a_cpp_program_agree_and_are_demangled() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["-gdwarf-5", "-gdwarf-4", "-gdwarf-3", "-gdwarf-2"] {
        let flags = ["-O2", "-g", version];
        let path = compile("g++", &flags, &["shapes.cc"], dir.path(), "program");
        let addresses = addresses_of(&path, ".text", 1);
        let batch = at(open(&path), &DebugSearch::default(), &addresses);
        let all = assert_agreement(&path, &addresses, &batch);
        assert!(all.agreed() > 500 && all.deepest >= 4, "{all:?}");
        let area = function(&batch, "geometry::Named::area");
        assert_eq!(&*area.frames.last().unwrap().system_name, "_ZNK8geometry5Named4areaEv");
        assert_eq!(area.source, NameSource::Dwarf);
        function(&batch, "geometry::Shape<int>::area");
        function(&batch, "(anonymous namespace)::hidden");
    }
}

#[test]
fn rust_names_have_no_hash_and_lines_agree() {
    let dir = tempfile::tempdir().unwrap();
    let src = source("work.rs");
    let out = dir.path().join("program");
    let args =
        ["-O", "-g", "--edition", "2021", src.to_str().unwrap(), "-o", out.to_str().unwrap()];
    run("rustc", &args, dir.path());
    let image = open(&out);
    let all = addresses_of(&out, ".text", 37);
    let batch = at(image.clone(), &DebugSearch::default(), &all);
    let own = function(&batch, "<work::Add<u64> as work::Step>::step");
    assert!(own.frames.iter().all(|f| !f.name.contains("17h")), "{own:?}");
    let own = own.frames.last().unwrap();
    assert!(own.system_name.starts_with("_ZN") || own.system_name.starts_with("_R"));
    assert_eq!(own.start_line, Some(12));
    // Parts of the standard library lack full debug information, and binutils prints that of nearby
    // code. So compare only the program's own code with binutils, and all code with the addr2line
    // crate.
    let file = src.to_str().unwrap();
    let of_program = |s: &Symbolized| s.frames.last().unwrap().file.as_deref() == Some(file);
    let ours: Vec<u64> = all
        .iter()
        .zip(&batch.symbols)
        .filter(|(_, s)| s.as_ref().is_ok_and(of_program))
        .map(|(a, _)| *a)
        .collect();
    let batch = at(image, &DebugSearch::default(), &ours);
    assert!(assert_agreement(&out, &ours, &batch).inlined >= 5);
    against_the_crate(&out, &all);
}

/// Compares with the addr2line crate, which also reads DWARF with gimli. Returns the number of
/// compared addresses.
fn against_the_crate(path: &Path, addresses: &[u64]) -> usize {
    let image = open(path);
    let load = |id: gimli::SectionId| -> Result<Cow<'_, [u8]>, gimli::Error> {
        Ok(Cow::Borrowed(image.section(id.name()).map_or(&[][..], |s| s.data)))
    };
    let sections = gimli::DwarfSections::load(load).unwrap();
    let dwarf = sections.borrow(|b| gimli::EndianSlice::new(b, gimli::LittleEndian));
    let context = addr2line::Context::from_dwarf(dwarf).unwrap();
    let batch = at(image.clone(), &DebugSearch::default(), addresses);
    let mut compared = 0;
    for (address, ours) in addresses.iter().zip(&batch.symbols) {
        let mut frames = context.find_frames(*address).skip_all_loads().unwrap();
        let mut theirs = Vec::new();
        while let Some(f) = frames.next().unwrap() {
            let Some(function) = f.function else { continue };
            let place = f.location.as_ref();
            theirs.push((
                function.raw_name().unwrap().into_owned(),
                place.and_then(|l| l.file.map(str::to_owned)),
                place.and_then(|l| l.line),
                place.and_then(|l| l.column).filter(|&c| c != 0),
            ));
        }
        if theirs.is_empty() {
            continue;
        }
        let ours = ours.as_ref().unwrap();
        let same = ours.frames.len() == theirs.len()
            && ours.frames.iter().zip(&theirs).all(|(o, t)| {
                let name = |n: &str| n.split('.').next().unwrap_or_default().to_owned();
                // Without a linkage name, ours is the name of the symbol at the address.
                let named = name(&o.system_name) == name(&t.0) || o.name.contains(&t.0);
                named && o.file.as_deref() == t.1.as_deref() && o.line == t.2 && o.column == t.3
            });
        assert!(same, "{address:#x}\n  ours   {ours:?}\n  theirs {theirs:?}");
        compared += 1;
    }
    compared
}

#[test]
fn frames_and_columns_agree_with_the_addr2line_crate() {
    let dir = tempfile::tempdir().unwrap();
    for (compiler, sources) in [
        ("gcc", &["main.c", "other.c"][..]),
        ("g++", &["shapes.cc"]),
        ("clang", &["main.c", "other.c"]),
    ] {
        let path = compile(compiler, &["-O2", "-g"], sources, dir.path(), "program");
        assert!(against_the_crate(&path, &addresses_of(&path, ".text", 1)) > 300);
    }
}

#[test]
fn functions_and_inlined_calls_have_the_line_of_their_declaration() {
    let dir = tempfile::tempdir().unwrap();
    let line_of = |file: &str, text: &str| {
        let all = std::fs::read_to_string(source(file)).unwrap();
        all.lines().position(|l| l.contains(text)).unwrap() as u32 + 1
    };
    let expected = [
        ("level1", line_of("middle.h", "level1(unsigned long x) {")),
        ("level2", line_of("middle.h", "level2(unsigned long x) {")),
        ("level3", line_of("inlined.h", "level3(unsigned long x) {")),
        ("level4", line_of("inlined.h", "level4(unsigned long x) {")),
        ("local_work", line_of("main.c", "local_work(unsigned long x, int")),
        ("exported_work", line_of("main.c", "unsigned long exported_work(")),
        ("main", line_of("main.c", "int main(")),
        ("other", line_of("other.c", "unsigned long other(")),
    ];
    for flags in [&["-g"][..], &["-g", "-flto"], &["-g", "-gdwarf-3"]] {
        let path = c_program(flags, dir.path(), "program");
        let batch = at(open(&path), &DebugSearch::default(), &addresses_of(&path, ".text", 1));
        for (name, line) in expected {
            let frames = batch.symbols.iter().flatten().flat_map(|s| &s.frames);
            let lines: Vec<_> = frames.filter(|f| &*f.name == name).map(|f| f.start_line).collect();
            assert!(!lines.is_empty(), "no {name} with {flags:?}");
            assert!(lines.iter().all(|l| *l == Some(line)), "{name}: {lines:?}, not {line}");
        }
    }
    // For out-of-line members, it is the line of the definition, not of the declaration in the
    // class.
    let path = compile("g++", &["-O2", "-g"], &["shapes.cc"], dir.path(), "program");
    let batch = at(open(&path), &DebugSearch::default(), &addresses_of(&path, ".text", 1));
    let area = function(&batch, "geometry::Named::area").frames.last().unwrap();
    assert_eq!(area.start_line, Some(line_of("shapes.cc", "long Named::area() const {")));
}

#[test]
fn assembly_has_names_from_symbols_and_lines_from_dwarf() {
    let dir = tempfile::tempdir().unwrap();
    let path = c_program(&["-g"], dir.path(), "program");
    let batch = at(open(&path), &DebugSearch::default(), &addresses_of(&path, ".text", 1));
    for (name, first) in [("asm_sized", 5), ("asm_label", 12), ("asm_second", 15)] {
        let s = function(&batch, name);
        let f = &s.frames[0];
        assert_eq!((f.line, s.frames.len()), (Some(first), 1), "{name}");
        assert!(f.file.as_deref().unwrap().ends_with("programs/asm.S"));
    }
    // Without debug information, labels extend to the next symbol.
    let path = c_program(&[], dir.path(), "plain");
    let batch = at(open(&path), &DebugSearch::default(), &addresses_of(&path, ".text", 1));
    let bytes = |name: &str| {
        let named = |s: &&Symbolized| &*s.frames[0].name == name;
        batch.symbols.iter().flatten().filter(named).count()
    };
    assert_eq!(bytes("asm_sized"), 3);
    assert_eq!(bytes("asm_label"), 2);
    assert!(bytes("asm_second") >= 3);
    let work = function(&batch, "other");
    assert_eq!(work.source, NameSource::Symtab);
    assert_eq!(work.frames[0].line, None);
}

#[test]
fn symbols_agree_with_readelf() {
    let dir = tempfile::tempdir().unwrap();
    let path = c_program(&[], dir.path(), "program");
    let table = run("readelf", &["-sW", path.to_str().unwrap()], dir.path());
    let mut checked = 0;
    for row in table.lines() {
        let f: Vec<&str> = row.split_whitespace().collect();
        let [_, value, size, "FUNC", _, _, index, name] = f[..] else { continue };
        let (value, size) = (u64::from_str_radix(value, 16).unwrap(), size.parse::<u64>());
        if index == "UND" || !size.as_ref().is_ok_and(|&s| s > 0) {
            continue;
        }
        let last = value + size.unwrap() - 1;
        let batch = at(open(&path), &DebugSearch::default(), &[last, value, last]);
        for s in &batch.symbols {
            let s = s.as_ref().unwrap();
            assert_eq!(s.start.0, value);
            let alias = ["alias_work", "exported_work"].contains(&name);
            assert!(alias || &*s.frames[0].system_name == name, "{s:?} for {name}");
        }
        checked += 1;
    }
    assert!(checked > 5, "{checked}");
}

#[test]
fn stripped_programs_have_plt_names_and_reasons_for_missing_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = c_program(&["-fcf-protection", "-Wl,-z,now,-z,ibtplt"], dir.path(), "now");
    let lazy = c_program(&["-fcf-protection", "-Wl,-z,lazy,-z,ibtplt"], dir.path(), "lazy");
    for (path, section) in
        [(&path, ".plt.got"), (&lazy, ".plt.sec"), (&path, ".plt.sec"), (&lazy, ".plt")]
    {
        run("strip", &[path.to_str().unwrap()], dir.path());
        let image = open(path);
        if image.section(section).is_none() {
            assert_ne!(section, ".plt.sec");
            continue;
        }
        let addresses = addresses_of(path, section, 1);
        let batch = at(image, &DebugSearch::default(), &addresses);
        // objdump names the stubs that jump. If there is a .plt.sec, .plt holds the lazy-binding
        // stubs.
        let listing = run("objdump", &["-dj", section, path.to_str().unwrap()], dir.path());
        let mut compared = 0;
        for row in listing.lines() {
            let Some((start, name)) = row.split_once(" <").filter(|_| row.ends_with(">:")) else {
                continue;
            };
            let name = name.trim_end_matches(">:");
            let start = u64::from_str_radix(start, 16).unwrap();
            if !name.ends_with("@plt") {
                continue;
            }
            let inside = if section == ".plt.got" { [0, 4, 7] } else { [0, 4, 15] };
            for offset in inside {
                let i = addresses.binary_search(&(start + offset)).unwrap();
                let s = batch.symbols[i].as_ref().unwrap();
                assert_eq!(
                    (&*s.frames[0].name, s.start.0, s.source),
                    (name, start, NameSource::Plt)
                );
                compared += 1;
            }
        }
        assert!(compared > 0 || section == ".plt", "{section}: {listing}");
        if section == ".plt" {
            assert!(
                batch
                    .symbols
                    .iter()
                    .flatten()
                    .any(|s| &*s.frames[0].name == "memset@plt"
                        || &*s.frames[0].name == "printf@plt")
            );
        }
    }
    let text = addresses_of(&path, ".text", 16);
    let batch = at(open(&path), &DebugSearch::default(), &text);
    assert!(batch.symbols.iter().all(|s| *s == Err(NoSymbol::NoTables)), "{:?}", batch.symbols[0]);
    let plain = c_program(&["-g"], dir.path(), "plain");
    let batch = at(open(&plain), &DebugSearch::default(), &[0, 1, u64::MAX]);
    assert!(batch.symbols.iter().all(|s| *s == Err(NoSymbol::NotCovered)), "{:?}", batch.symbols);
}

#[test]
fn results_do_not_depend_on_the_order_of_addresses_or_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = compile("g++", &["-O2", "-g"], &["shapes.cc"], dir.path(), "program");
    let addresses = addresses_of(&path, ".text", 29);
    let image = open(&path);
    let whole = at(image.clone(), &DebugSearch::default(), &addresses);
    let mut backwards: Vec<u64> = addresses.iter().rev().copied().collect();
    backwards.extend(&addresses);
    let twice = at(image.clone(), &DebugSearch::default(), &backwards);
    for (i, &a) in addresses.iter().enumerate() {
        let alone = at(image.clone(), &DebugSearch::default(), &[a]);
        assert_eq!(whole.symbols[i], alone.symbols[0], "{a:#x}");
        assert_eq!(whole.symbols[i], twice.symbols[addresses.len() - 1 - i]);
        assert_eq!(whole.symbols[i], twice.symbols[addresses.len() + i]);
    }
}

#[test]
fn libc_with_a_debug_file_agrees_with_binutils() {
    let libc = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
    let libc = std::fs::canonicalize(libc).expect("this test requires libc6");
    let addresses = addresses_of(&libc, ".text", 1999);
    let batch = resolve(&libc, Path::new("/"), &addresses);
    let all = compare(&libc, &addresses, &batch);
    assert!(all.addresses > 500, "this test requires libc6-dbg: {all:?}");
    // Names of aliases (read, __read, __libc_read) differ, and binutils guesses in padding, so 1
    // address in 50 may differ.
    let shown = all.differing.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        all.agreed() * 50 >= all.addresses * 49,
        "{} of {}:\n{shown}",
        all.agreed(),
        all.addresses
    );
    assert!(all.inlined > 50);
}

//! Compares the line table of running programs with what Go's runtime reports.

mod common;

use common::{BUILDS, Build, Target, for_each_version, installed};
use gopclntab::{LineTable, printed_name};
use image::{Avma, Svma};

#[test]
fn functions_files_and_lines_match_the_runtime() {
    for_each_version(|version| {
        for how in BUILDS {
            let mut target = Target::start(version, "truth", how);
            let mut checked = 0;
            for line in target.ask("frames").lines() {
                let words: Vec<&str> = line.rsplitn(4, ' ').collect();
                let [line_number, file, function, pc] = words[..] else { panic!("{line}") };
                let pc = pc.trim_start_matches("0x");
                let pc = Avma(u64::from_str_radix(pc, 16).expect("an address"));
                let frames = target.runtime.frames_at(pc);
                let first = frames.first().unwrap_or_else(|| panic!("{version} {how:?}: {line}"));
                let (our_file, our_line) = first.position.clone().unwrap_or(("?".into(), 0));
                let ours = (printed_name(&first.function), our_file, our_line.to_string());
                let theirs = (function.into(), file.into(), line_number.to_owned());
                assert_eq!(ours, theirs, "{version} {how:?}: {pc}");
                checked += 1;
            }
            assert!(checked > 1000, "{version} {how:?}: only {checked} instructions");
        }
    });
}

#[test]
fn a_table_from_memory_equals_the_one_in_the_file() {
    for version in installed(&["1.21.13", "1.26.6", "1.27.3"]) {
        for how in [Build::Plain, Build::StrippedPieCgo] {
            let target = Target::start(version, "truth", how);
            let of_file = target.runtime.line_table();
            let gofunc = gopclntab::gofunc_offset(target.runtime.version());
            let module = target.runtime.module_data();
            let of_memory = LineTable::read(&target.memory, module, gofunc).expect("a table");
            assert_eq!(of_file.len(), of_memory.len());
            assert!(of_memory.has_inline_trees());
            let mut inlined = 0;
            for f in of_file.functions() {
                let entry = target.bias.to_avma(f.entry());
                let g = of_memory.function_at(Svma(entry.0)).expect("the same function");
                assert_eq!((f.name(), f.start_line()), (g.name(), g.start_line()));
                for offset in (0..f.end().0 - f.entry().0).step_by(7) {
                    let a = f.frames(f.entry().wrapping_add(offset));
                    let b = g.frames(g.entry().wrapping_add(offset));
                    let names = |frames: gopclntab::Frames<'_>| {
                        frames
                            .map(|f| (f.function.into_owned(), f.position.map(|p| p.1)))
                            .collect::<Vec<_>>()
                    };
                    let (a, b) = (names(a), names(b));
                    inlined += usize::from(a.len() > 1);
                    assert_eq!(a, b, "{version} {how:?} {}", f.name());
                }
            }
            assert!(inlined > 1000, "{version} {how:?}: {inlined} inlined positions");
        }
    }
}

//! Reads MiniDebugInfo that was created as the gdb manual describes (section MiniDebugInfo).

mod common;

use std::path::{Path, PathBuf};

use common::{addresses_of, at, c_program, open, run};
use symbolize::{DebugSearch, NameSource, NoSymbol};

/// Builds a program. Returns its paths unstripped, and stripped with MiniDebugInfo.
fn programs(dir: &Path) -> (PathBuf, PathBuf) {
    let whole = c_program(&["-g", "-rdynamic"], dir, "whole");
    let script = "
        nm -D whole --format=posix --defined-only | awk '{print $1}' | sort > dynsyms
        nm whole --format=posix --defined-only |
            awk '{if ($2 == \"T\" || $2 == \"t\" || $2 == \"D\") print $1}' | sort > funcsyms
        comm -13 dynsyms funcsyms > keep
        objcopy --only-keep-debug whole whole.debug
        objcopy -S --remove-section .gdb_index --remove-section .comment \
            --keep-symbols=keep whole.debug mini
        strip --strip-all -R .comment whole -o program
        xz --keep --force mini
        objcopy --add-section .gnu_debugdata=mini.xz program
    ";
    run("sh", &["-ec", script], dir);
    (whole, dir.join("program"))
}

#[test]
fn local_functions_of_a_stripped_program_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, program) = programs(dir.path());
    assert!(open(&program).section(".symtab").is_none());
    let addresses = addresses_of(&whole, ".text", 1);
    let expected = at(open(&whole), &DebugSearch::default(), &addresses);
    let found = at(open(&program), &DebugSearch::default(), &addresses);
    assert_eq!(found.losses, symbolize::Losses::default());
    let (mut local, mut exported) = (0, 0);
    for (want, got) in expected.symbols.iter().zip(&found.symbols) {
        let Ok(want) = want else { continue };
        let got = got.as_ref().unwrap_or_else(|e| panic!("{want:?}: {e}"));
        // Compare the outermost function: MiniDebugInfo has no inlined calls. The two names of one
        // function count as equal.
        let (w, g) = (want.frames.last().unwrap(), got.frames.last().unwrap());
        let alias = ["alias_work", "exported_work"];
        let same = w.system_name == g.system_name
            || (alias.contains(&&*w.system_name) && alias.contains(&&*g.system_name));
        assert!(same, "{want:?} {got:?}");
        match got.source {
            NameSource::MiniDebugInfo => local += 1,
            NameSource::Dynsym => exported += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(local > 50 && exported > 50, "{local} {exported}");
    assert!(found.symbols.iter().flatten().any(|s| s.frames[0].name.starts_with("local_work")));
}

#[test]
fn damaged_or_endless_data_is_reported_at_low_cost() {
    let dir = tempfile::tempdir().unwrap();
    let (_, program) = programs(dir.path());
    let addresses = addresses_of(&program, ".text", 7);
    let replace = |data: &[u8]| {
        std::fs::write(dir.path().join("data"), data).unwrap();
        run(
            "objcopy",
            &["--update-section", ".gnu_debugdata=data", "program", "other"],
            dir.path(),
        );
        at(open(&dir.path().join("other")), &DebugSearch::default(), &addresses)
    };
    let good = std::fs::read(dir.path().join("mini.xz")).unwrap();
    assert_eq!(replace(&good).losses.unreadable_sections, 0);
    let cut = replace(&good[..good.len() / 2]);
    assert_eq!(cut.losses.unreadable_sections, 1);
    assert!(cut.symbols.contains(&Err(NoSymbol::NotCovered)));
    for at in [6, 12, 13, 14, 30, good.len() / 2, good.len() - 5] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        assert!(replace(&bad).losses.unreadable_sections <= 1);
    }
    // 300 MiB of zeros in about 45 KB, and a dictionary of 1.5 GiB.
    run("sh", &["-ec", "head -c 300M /dev/zero | xz -T2 -1 > bomb"], dir.path());
    let bomb = std::fs::read(dir.path().join("bomb")).unwrap();
    assert_eq!(replace(&bomb).losses.unreadable_sections, 1);
    run("sh", &["-ec", "head -c 1M /dev/zero | xz --lzma2=dict=1536MiB > wide"], dir.path());
    let wide = std::fs::read(dir.path().join("wide")).unwrap();
    assert_eq!(replace(&wide).losses.unreadable_sections, 1);
}

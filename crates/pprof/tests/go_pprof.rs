//! Exchanges profiles with `go tool pprof` in both directions.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{cpu, gz, readable};
use pprof::{Profile, decode};

/// The Go command. If there is none, the test fails with a fix instead of being skipped.
fn go() -> PathBuf {
    if let Some(path) = std::env::var_os("EXOPROF_GO") {
        return path.into();
    }
    let in_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|d| d.join("go")).find(|f| f.is_file()));
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/go");
    let cached = || {
        let versions = std::fs::read_dir(&cache).ok()?;
        versions.flatten().map(|v| v.path().join("go/bin/go")).filter(|f| f.is_file()).max()
    };
    in_path
        .or_else(cached)
        .expect("no Go toolchain; fix: run scripts/setup-tests or set EXOPROF_GO")
}

/// Runs pprof on a profile without access to the user's files or the network.
fn pprof_output(profile: &Profile, options: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.pb.gz");
    std::fs::write(&file, gz(profile)).unwrap();
    Command::new(go())
        .args(["tool", "pprof", "-symbolize=none"])
        .args(options)
        .arg(&file)
        .env("HOME", folder.path())
        .env("PPROF_TMPDIR", folder.path())
        .env("GOCACHE", Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/go-build"))
        .env("GOTOOLCHAIN", "local")
        .output()
        .expect("go starts")
}

fn pprof_text(profile: &Profile, options: &[&str]) -> String {
    let output = pprof_output(profile, options);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go tool pprof {options:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Lines with runs of spaces replaced by one space.
fn words(text: &str) -> Vec<String> {
    text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn top() {
    let lines = words(&pprof_text(&cpu(), &["-top", "-sample_index=samples"]));
    assert!(lines.contains(&"File: worker".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"Type: samples".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"recorded by exoprof".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"Showing nodes accounting for 11, 100% of 11 total".to_owned()));
    // 7 + 1 in the inlined function. Its callers also include the 3 of memcpy.
    let rows = &lines[lines.iter().position(|l| l.starts_with("flat flat%")).unwrap() + 1..];
    assert_eq!(rows[0], "8 72.73% 72.73% 11 100% worker::inlined (inline)");
    assert_eq!(rows[1], "3 27.27% 100% 3 27.27% [libc.so.6]");
    let rest = "0 0% 100% 11 100%";
    assert!(rows.contains(&format!("{rest} worker::hot<u64>")), "{rows:#?}");
    assert!(rows.contains(&format!("{rest} worker::main")), "{rows:#?}");
}

#[test]
fn the_last_type_is_shown_first() {
    let lines = words(&pprof_text(&cpu(), &["-top"]));
    assert!(lines.contains(&"Type: cpu".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|l| l.starts_with("Duration: 30s, Total samples = 110ms")));
}

#[test]
fn raw() {
    let lines = words(&pprof_text(&cpu(), &["-raw"]));
    for expected in [
        "PeriodType: cpu nanoseconds",
        "Period: 10101010",
        "samples/count cpu/nanoseconds",
        "7 70000000: 1 2",
        "3 30000000: 3 1 2",
        "1 10000000: 1 2",
        "comm:[w1]",
        "tid:[101 id]",
        "1: 0x555555556200 M=1 worker::inlined /src/worker.rs:31:7 s=30",
        "worker::hot<u64> /src/worker.rs:22:0 s=20",
        "3: 0x7f0000100000 M=2",
        "1: 0x555555556000/0x555555580000/0x2000 /usr/bin/worker \
         0123456789abcdef0123456789abcdef01234567 [FN][FL][LN][IN]",
        "2: 0x7f0000026000/0x7f000017f000/0x26000 /usr/lib/x86_64-linux-gnu/libc.so.6 ab",
    ] {
        assert!(lines.iter().any(|l| l.starts_with(expected)), "{expected:?} in {lines:#?}");
    }
}

#[test]
fn profiles_written_by_pprof_are_read() {
    let output = pprof_output(&cpu(), &["-proto", "-output=/dev/stdout"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = decode(&output.stdout).unwrap();
    let sorted = |p: &Profile| {
        let mut lines = readable(p);
        lines.sort();
        lines
    };
    assert_eq!(sorted(&read), sorted(&cpu()));
    assert_eq!(read.mappings, cpu().mappings);
    assert_eq!(read.period_type, cpu().period_type);
}

#[test]
fn differences_are_understood() {
    let mut base = cpu();
    base.scale(0.5);
    base.negate();
    base.mark_as_base();
    let difference = pprof::merge([&cpu(), &base]).unwrap();
    let lines = words(&pprof_text(&difference, &["-top", "-sample_index=samples"]));
    // 11 − (4 + 2 + 1) = 4. Percentages are relative to the base's total, 7.
    assert!(
        lines.contains(&"Showing nodes accounting for 4, 57.14% of 7 total".to_owned()),
        "{lines:#?}"
    );
}

//! Tests the command `exoprof report`. The text of reports is tested in the crate `report`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../report/tests/data").join(name)
}

fn report(args: &[&str], files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_exoprof"))
        .arg("report")
        .args(args)
        .args(files)
        .env("TZ", "Asia/Kolkata")
        .stdin(Stdio::null())
        .output()
        .expect("exoprof starts")
}

#[track_caller]
fn text(args: &[&str], files: &[&Path]) -> String {
    let output = report(args, files);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one-line error of a command that fails with `status`.
#[track_caller]
fn error(status: i32, args: &[&str], files: &[&Path]) -> String {
    let output = report(args, files);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{errors}");
    assert!(output.stdout.is_empty());
    let errors = errors.trim_end().strip_suffix("\nfor more: exoprof help").unwrap_or(&errors);
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    errors.trim_end().to_owned()
}

#[test]
fn top_is_the_default() {
    let python = &[&*recording("python.pb.gz")];
    let default = text(&[], python);
    assert!(default.contains("\n      flat  flat%   sum%        cum   cum%\n"), "{default}");
    assert_eq!(text(&["--top"], python), default);
    assert_eq!(text(&["--top=3"], python), text(&["--nodecount", "3"], python));
    assert!(text(&["--top=3"], python).contains("Showing top 3 nodes out of"));
}

#[test]
fn times_are_local() {
    let go = &[&*recording("go-vet.pb.gz")];
    assert!(text(&[], go).contains(" IST\n"));
    assert!(text(&["--raw"], go).contains(" +0530 IST\n"));
}

#[test]
fn collapsed_stacks_add_up() {
    let go = &[&*recording("go-vet.pb.gz")];
    let stacks = text(&["--collapsed", "--sample-index=samples"], go);
    let counts = stacks.lines().map(|l| l.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap());
    let profile = pprof::decode(&std::fs::read(go[0]).unwrap()).unwrap();
    let samples: i64 = profile.samples.iter().map(|s| s.values[0]).sum();
    assert_eq!(counts.sum::<i64>(), samples);
    assert!(stacks.lines().is_sorted());
}

#[test]
fn the_difference_of_equal_profiles_is_empty() {
    let go = recording("go-vet.pb.gz");
    let base = format!("--diff-base={}", go.display());
    let text = text(&[&base], &[&go]);
    assert!(text.contains("Showing nodes accounting for 0, 0% of "), "{text}");
}

#[test]
fn filters_without_matches_are_reported() {
    let python = &[&*recording("python.pb.gz")];
    let output = report(&["--focus=nowhere"], python);
    assert!(output.status.success());
    let warning = "warning: the focus expression matched no samples\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), warning);
    assert!(report(&["-q", "--focus=nowhere"], python).stderr.is_empty());
    assert!(
        error(1, &["--peek=nowhere"], python).ends_with("no matches found for regexp: nowhere")
    );
}

#[test]
fn wrong_usage() {
    let python = &[&*recording("python.pb.gz")];
    assert!(
        error(2, &["--focus=("], python).contains("invalid regular expression in focus: \"(\"")
    );
    assert!(error(2, &["--sample-index=heap"], python).contains("the profile has: samples, cpu"));
    for args in [&["--tree", "--raw"][..], &["--lines", "--files"], &["--nodecount=-1"]] {
        assert_eq!(report(args, python).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(report(&[], &[]).status.code(), Some(2));
}

#[test]
fn invalid_profiles_fail_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(recording("python.pb.gz")).unwrap();
    let cases: [(&str, &[u8], &str); 5] = [
        ("empty", b"", "the profile is empty"),
        ("truncated", &whole[..whole.len() / 2], "the gzip stream is truncated"),
        ("heap", b"heap profile: 1: 2 [3: 4] @ heap/1048576\n", "a text heap profile"),
        ("noise", &[0xff; 100], "malformed Profile"),
        ("text", b"404 page not found\n", "404 page not found"),
    ];
    for (name, bytes, reason) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = error(1, &[], &[&path]);
        assert!(error.contains(reason) && error.contains(name), "{error}");
    }
    assert!(error(1, &[], &[&folder.path().join("absent")]).contains("absent: No such file"));
}

#[test]
fn profiles_of_different_types_are_not_merged() {
    let mut heap = pprof::ProfileBuilder::new(vec![pprof::ValueType::new("space", "bytes")]);
    heap.set_period(pprof::ValueType::new("space", "bytes"), 1);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&pprof::encode(&heap.finish())).unwrap();
    let error = error(1, &[], &[&recording("python.pb.gz"), file.path()]);
    assert!(error.ends_with("the profiles have no common sample type"), "{error}");
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_exoprof"))
        .args(["report", "--traces"])
        .arg(recording("go-vet.pb.gz"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("exoprof starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

//! Runs `go tool pprof`, which must accept every profile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::repository;

/// The `go` command: `EXOPROF_GO`, or what `scripts/setup-tests` installed in `.cache/go`, or the
/// one in the PATH.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn go() -> PathBuf {
    if let Some(path) = std::env::var_os("EXOPROF_GO") {
        return path.into();
    }
    let cached = std::fs::read_dir(repository().join(".cache/go"));
    let mut versions: Vec<_> = cached
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("go/bin/go"))
        .filter(|go| go.is_file())
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|d| d.join("go")).find(|go| go.is_file());
    versions.pop().or(in_path).unwrap_or_else(|| panic!("no Go: run scripts/setup-tests"))
}

/// `go tool pprof` with its files in `.cache`.
fn command() -> Command {
    let cache = repository().join(".cache");
    let mut command = Command::new(go());
    command
        .args(["tool", "pprof"])
        .env("GOCACHE", cache.join("go-build"))
        .env("GOPATH", cache.join("go-path"))
        .env("PPROF_TMPDIR", cache.join("go-pprof"))
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOTELEMETRY", "off")
        .env_remove("GOROOT")
        .current_dir("/");
    command
}

/// Types `input` into the shell of `go tool pprof SOURCE` and returns its output.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn interactive(source: &str, input: &str) -> String {
    use std::io::Write as _;
    let mut child = command()
        .arg(source)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{e}; run scripts/setup-tests"));
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(input.as_bytes()).expect("pprof reads commands");
    drop(stdin);
    let output = child.wait_with_output().expect("pprof can be waited for");
    assert!(output.status.success(), "go tool pprof {source}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The error message of `go tool pprof -top SOURCE`.
///
/// # Panics
/// When it does not fail.
#[must_use]
pub fn fails(source: &str) -> String {
    let output = command().args(["-top", source]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{e}; run scripts/setup-tests"));
    assert!(!output.status.success(), "go tool pprof {source} does not fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `go tool pprof ARGS… PROFILE` and returns its output.
///
/// # Panics
/// When it fails or warns: a valid profile causes no warnings.
#[must_use]
pub fn pprof(args: &[&str], profile: &Path) -> String {
    let output = command()
        .args(args)
        .arg(profile)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{e}; run scripts/setup-tests"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go tool pprof {args:?}: {stderr}");
    let complaint = stderr.lines().find(|line| {
        let line = line.to_lowercase();
        line.contains("error") || line.contains("malformed") || line.contains("warning")
    });
    assert!(complaint.is_none(), "go tool pprof {args:?} complains: {stderr}");
    String::from_utf8(output.stdout).expect("pprof prints UTF-8")
}

/// One row of `-top`.
#[derive(Debug, Clone, PartialEq)]
pub struct TopRow {
    /// Percentage of the total in the function itself.
    pub flat: f64,
    /// Percentage of the total in the function and its callees.
    pub cum: f64,
    /// The function's name.
    pub function: String,
}

/// All rows of `-top`.
#[must_use]
pub fn top(profile: &Path) -> Vec<TopRow> {
    let text = pprof(&["-top", "-nodecount=10000", "-nodefraction=0"], profile);
    text.lines().filter_map(top_row).collect()
}

/// `2.01s 50.12% 50.12%  2.01s 50.12%  heavy_a`
fn top_row(line: &str) -> Option<TopRow> {
    let words: Vec<_> = line.split_whitespace().collect();
    let per_cent = |at: usize| words.get(at)?.strip_suffix('%')?.parse::<f64>().ok();
    Some(TopRow { flat: per_cent(1)?, cum: per_cent(4)?, function: words.get(5..)?.join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_top() {
        let row = top_row("     2.01s 50.12% 50.12%      2.02s 50.37%  heavy_a (inline)").unwrap();
        assert_eq!(row, TopRow { flat: 50.12, cum: 50.37, function: "heavy_a (inline)".into() });
        assert_eq!(top_row("      flat  flat%   sum%        cum   cum%"), None);
    }

    #[test]
    fn go_is_there() {
        assert!(go().is_file());
    }
}

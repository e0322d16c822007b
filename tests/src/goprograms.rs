//! Go programs of `tests/targets/go`, built on demand with each installed version of Go.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use crate::repository;

/// The version that `scripts/setup-tests` installs.
pub const LATEST: &str = "1.27.3";
/// The others that are supported, which `scripts/setup-tests --all-go` installs.
pub const EARLIER: [&str; 6] = ["1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6"];

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoBuild {
    /// As `go build` does by itself, without C.
    Plain,
    /// `-s -w`.
    Stripped,
    /// Position independent.
    Pie,
    /// With C code.
    Cgo,
    /// All together.
    StrippedPieCgo,
}

impl GoBuild {
    /// Every way.
    pub const ALL: [Self; 5] =
        [Self::Plain, Self::Stripped, Self::Pie, Self::Cgo, Self::StrippedPieCgo];

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Cgo => &[],
            Self::Stripped => &["-ldflags=-s -w"],
            Self::Pie => &["-buildmode=pie"],
            Self::StrippedPieCgo => &["-buildmode=pie", "-ldflags=-s -w"],
        }
    }

    fn has_cgo(self) -> bool {
        matches!(self, Self::Cgo | Self::StrippedPieCgo)
    }
}

/// The latest version and those of the earlier ones that are installed. Says loudly, past the
/// capture of the test's output, which are not.
#[must_use]
pub fn installed() -> Vec<&'static str> {
    let there =
        |version: &&str| repository().join(".cache/go").join(version).join("go/bin/go").exists();
    let (mut present, missing): (Vec<&str>, Vec<&str>) = EARLIER.iter().partition(|v| there(v));
    if !missing.is_empty() {
        let list = missing.join(", ");
        let text = format!("NOT RUN for Go {list}: scripts/setup-tests --all-go installs them\n");
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    present.push(LATEST);
    present
}

/// The `go` command of a version, so set up that it fetches nothing.
#[must_use]
pub fn go(version: &str) -> Command {
    let root = repository().join(".cache/go").join(version).join("go");
    let mut command = Command::new(root.join("bin/go"));
    command
        .env("GOROOT", &root)
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOTELEMETRY", "off")
        .env("GOCACHE", repository().join(".cache/gocache"));
    command
}

/// Builds a program; one that is up to date is left as it is. `more` are further flags, told apart
/// by `suffix` in the file's name.
///
/// # Panics
/// When Go is missing or refuses it.
#[must_use]
pub fn build_with(
    version: &str,
    program: &str,
    how: GoBuild,
    suffix: &str,
    more: &[&str],
) -> (PathBuf, String) {
    let folder = repository().join("target/test-targets");
    fs::create_dir_all(&folder).expect("target/test-targets can be made");
    // One compilation at a time, whatever the number of tests.
    let lock = fs::File::create(folder.join(".go.lock")).expect("a lock file can be made");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock can be had");
    let out = folder.join(format!("go-{program}-{version}-{how:?}{suffix}"));
    let output = go(version)
        .current_dir(repository().join("tests/targets/go").join(program))
        .env("CGO_ENABLED", if how.has_cgo() { "1" } else { "0" })
        .args(["build", "-p", "2"])
        .args(how.flags())
        .args(more)
        .arg("-o")
        .arg(&out)
        .arg(".")
        .output()
        .unwrap_or_else(|e| panic!("Go {version}: {e}; run scripts/setup-tests"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "go build of {program} with {version} {how:?}:\n{said}");
    (out, said)
}

/// As [`build_with`], without more.
#[must_use]
pub fn build(version: &str, program: &str, how: GoBuild) -> PathBuf {
    build_with(version, program, how, "", &[]).0
}

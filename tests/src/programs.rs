//! Builds ground-truth programs on demand from `tests/targets` into `target/test-targets`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use crate::repository;

/// One way to build one source file.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// File name of the built program.
    pub name: &'static str,
    source: &'static str,
    compiler: &'static str,
    flags: &'static [&'static str],
}

/// -fomit-frame-pointer is the default at -O2, but these programs depend on it.
const OPTIMIZED: &[&str] =
    &["-O2", "-g", "-fomit-frame-pointer", "-Wall", "-Wextra", "-Werror", "-pthread"];
const RUST: &[&str] = &["--edition=2024", "-O", "-g", "-Cforce-frame-pointers=no"];

const fn c(name: &'static str, source: &'static str, flags: &'static [&'static str]) -> Program {
    Program { name, source, compiler: "gcc", flags }
}

const fn rust(name: &'static str, source: &'static str, flags: &'static [&'static str]) -> Program {
    Program { name, source, compiler: "rustc", flags }
}

/// Position-independent, as distributions build programs.
pub const SHARES: Program = c("shares", "shares.c", &["-fPIE", "-pie"]);
/// Linked at fixed addresses.
pub const SHARES_NO_PIE: Program = c("shares-no-pie", "shares.c", &["-fno-pie", "-no-pie"]);
/// Static, at fixed addresses.
pub const SHARES_STATIC: Program = c("shares-static", "shares.c", &["-static", "-fno-pie"]);
/// Static and position-independent.
pub const SHARES_STATIC_PIE: Program = c("shares-static-pie", "shares.c", &["-static-pie"]);
/// With a build ID, whatever the linker's default.
pub const SHARES_BUILD_ID: Program = c("shares-build-id", "shares.c", &["-Wl,--build-id=sha1"]);
/// Static with musl, whose own objects have no unwind tables.
pub const SHARES_MUSL: Program =
    Program { compiler: "musl-gcc", ..c("shares-musl", "shares.c", &["-static"]) };
/// Linked to musl's `libc.so`, as on Alpine.
pub const SHARES_MUSL_DYNAMIC: Program =
    Program { compiler: "musl-gcc", ..c("shares-musl-dynamic", "shares.c", &["-fPIE", "-pie"]) };
/// Without symbols and debug information.
pub const SHARES_STRIPPED: Program = c("shares-stripped", "shares.c", &["-fPIE", "-pie", "-s"]);
/// See `threads.c`.
pub const THREADS: Program = c("threads", "threads.c", &[]);
/// See `fork.c`.
pub const FORK: Program = c("fork", "fork.c", &[]);
/// See `offspring.c`.
pub const OFFSPRING: Program = c("offspring", "offspring.c", &[]);
/// See `exec.c`.
pub const EXEC: Program = c("exec", "exec.c", &[]);
/// See `dlopen.c`.
pub const DLOPEN: Program = c("dlopen", "dlopen.c", &["-ldl"]);
/// A plugin of `dlopen.c`.
pub const PLUGIN_ALPHA: Program =
    c("alpha.so", "plugin.c", &["-shared", "-fPIC", "-DWORK=alpha_work"]);
/// The other plugin of `dlopen.c`.
pub const PLUGIN_BETA: Program =
    c("beta.so", "plugin.c", &["-shared", "-fPIC", "-DWORK=beta_work"]);
/// See `exceptions.cpp`.
pub const EXCEPTIONS: Program =
    Program { compiler: "g++", ..c("exceptions", "exceptions.cpp", &[]) };
/// See `signals.c`.
pub const SIGNALS: Program = c("signals", "signals.c", &[]);
/// See `recursion.c`.
pub const RECURSION: Program = c("recursion", "recursion.c", &["-fno-optimize-sibling-calls"]);
/// See `deep_libc.c`.
pub const DEEP_LIBC: Program = c("deep-libc", "deep_libc.c", &[]);
/// The same, static with musl.
pub const DEEP_LIBC_MUSL: Program =
    Program { compiler: "musl-gcc", ..c("deep-libc-musl", "deep_libc.c", &["-static"]) };
/// The same, linked to musl's `libc.so`.
pub const DEEP_LIBC_MUSL_DYNAMIC: Program =
    Program { compiler: "musl-gcc", ..c("deep-libc-musl-dynamic", "deep_libc.c", &[]) };
/// See `sleepy.c`.
pub const SLEEPY: Program = c("sleepy", "sleepy.c", &[]);
/// See `hole.c`. Without stack probes, which would touch the pages of large frames.
pub const HOLE: Program = c("hole", "hole.c", &["-fno-stack-clash-protection"]);
/// See `jit.c`.
pub const JIT: Program = c("jit", "jit.c", &[]);
/// See `inline.c`.
pub const INLINE_C: Program = c("inline-c", "inline.c", &[]);
/// See `inline.cpp`.
pub const INLINE_CXX: Program = Program { compiler: "g++", ..c("inline-cxx", "inline.cpp", &[]) };
/// See `inline.rs`.
pub const INLINE_RUST: Program = rust("inline-rust", "inline.rs", &[]);
/// See `rust_shares.rs`.
pub const RUST_V0: Program = rust("rust-v0", "rust_shares.rs", &["-Csymbol-mangling-version=v0"]);
/// Legacy mangling requires `-Zunstable-options`, also of a stable compiler: v0 is to become the
/// default.
pub const RUST_LEGACY: Program = rust(
    "rust-legacy",
    "rust_shares.rs",
    &["-Csymbol-mangling-version=legacy", "-Zunstable-options"],
);
/// See `server.c`.
pub const SERVER: Program = c("server", "server.c", &[]);
/// See `hostile.c`.
pub const HOSTILE: Program = c("hostile", "hostile.c", &[]);
/// See `noperf.c`.
pub const NOPERF: Program = c("noperf", "noperf.c", &[]);
/// See `waits.c`.
pub const WAITS: Program = c("waits", "waits.c", &[]);
/// Stripped: only what the C library exports has a name.
pub const WAITS_STRIPPED: Program = c("waits-stripped", "waits.c", &["-s"]);
/// Static with musl.
pub const WAITS_MUSL: Program =
    Program { compiler: "musl-gcc", ..c("waits-musl", "waits.c", &["-static"]) };
/// Linked to musl's `libc.so`.
pub const WAITS_MUSL_DYNAMIC: Program =
    Program { compiler: "musl-gcc", ..c("waits-musl-dynamic", "waits.c", &[]) };
/// See `waits.cpp`.
pub const WAITS_CXX: Program =
    Program { compiler: "g++", ..c("waits-cxx", "waits.cpp", &["-std=c++20", "-Wno-volatile"]) };
/// See `waits.rs`.
pub const WAITS_RUST: Program = rust("waits-rust", "waits.rs", &[]);
/// See `blocked.c`.
pub const BLOCKED: Program = c("blocked", "blocked.c", &[]);
/// See `pingpong.c`.
pub const PINGPONG: Program = c("pingpong", "pingpong.c", &[]);
/// See `scramble.c`.
pub const SCRAMBLE: Program = c("scramble", "scramble.c", &[]);
/// See `restless.c`.
pub const RESTLESS: Program = c("restless", "restless.c", &[]);
/// See `deep_sleep.c`.
pub const DEEP_SLEEP: Program = c("deep-sleep", "deep_sleep.c", &["-fno-optimize-sibling-calls"]);
/// See `bystander.c`.
pub const BYSTANDER: Program = c("bystander", "bystander.c", &[]);

/// See `locks.c`.
pub const LOCKS: Program = c("locks", "locks.c", &[]);
/// Static with musl.
pub const LOCKS_MUSL: Program =
    Program { compiler: "musl-gcc", ..c("locks-musl", "locks.c", &["-static"]) };
/// Linked to musl's `libc.so`.
pub const LOCKS_MUSL_DYNAMIC: Program =
    Program { compiler: "musl-gcc", ..c("locks-musl-dynamic", "locks.c", &[]) };

/// All programs, for tests of the harness.
pub const ALL: &[Program] = &[
    JIT,
    SHARES,
    SHARES_NO_PIE,
    SHARES_STATIC,
    SHARES_STATIC_PIE,
    SHARES_BUILD_ID,
    SHARES_MUSL,
    SHARES_MUSL_DYNAMIC,
    SHARES_STRIPPED,
    THREADS,
    FORK,
    OFFSPRING,
    EXEC,
    DLOPEN,
    PLUGIN_ALPHA,
    PLUGIN_BETA,
    EXCEPTIONS,
    SIGNALS,
    RECURSION,
    DEEP_LIBC,
    DEEP_LIBC_MUSL,
    DEEP_LIBC_MUSL_DYNAMIC,
    SLEEPY,
    HOLE,
    INLINE_C,
    INLINE_CXX,
    INLINE_RUST,
    RUST_V0,
    RUST_LEGACY,
    SERVER,
    HOSTILE,
    NOPERF,
    WAITS,
    WAITS_STRIPPED,
    WAITS_MUSL,
    WAITS_MUSL_DYNAMIC,
    WAITS_CXX,
    WAITS_RUST,
    BLOCKED,
    PINGPONG,
    SCRAMBLE,
    RESTLESS,
    DEEP_SLEEP,
    BYSTANDER,
    LOCKS,
    LOCKS_MUSL,
    LOCKS_MUSL_DYNAMIC,
];

impl Program {
    /// The path of the source.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        targets().join(self.source)
    }

    /// The built program's path. Builds it when it is missing, older than any target source, or was
    /// built by another command. Safe to call from several processes at once.
    ///
    /// # Panics
    /// When the compiler is missing or fails.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let folder = repository().join("target/test-targets");
        fs::create_dir_all(&folder).expect("target/test-targets can be made");
        let lock = fs::File::create(folder.join(format!(".{}.lock", self.name)))
            .expect("a lock file can be made");
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock can be taken");
        let built = folder.join(self.name);
        let command = self.command();
        let recipe = folder.join(format!(".{}.command", self.name));
        let said = format!("{command:?}");
        if !is_current(&built) || fs::read_to_string(&recipe).ok().as_deref() != Some(&said) {
            self.build(command, &built);
            fs::write(&recipe, said).expect("target/test-targets can be written");
        }
        built
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.compiler);
        if self.compiler == "rustc" {
            command.args(RUST).env("RUSTC_BOOTSTRAP", "1");
            command.arg(self.source()).args(self.flags);
        } else {
            // Libraries must follow the object that needs them.
            command.args(OPTIMIZED).arg(self.source()).args(self.flags);
        }
        command
    }

    fn build(&self, mut command: Command, built: &Path) {
        let part = built.with_extension("part");
        let output = command.arg("-o").arg(&part).output().unwrap_or_else(|e| {
            panic!("{}: {e}; run scripts/setup-tests", self.compiler);
        });
        assert!(
            output.status.success(),
            "{} does not build:\n{}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        fs::rename(&part, built).expect("the built program can be renamed");
    }

    /// The line of a mark such as `@call level3` in the source, counted from 1.
    ///
    /// # Panics
    /// When the mark is not at the end of exactly one line.
    #[must_use]
    pub fn marked_line(&self, mark: &str) -> i64 {
        let source = fs::read_to_string(self.source()).expect("a target's source can be read");
        let ending = format!("// {mark}");
        let lines: Vec<_> =
            source.lines().zip(1..).filter(|(line, _)| line.ends_with(&ending)).collect();
        assert_eq!(lines.len(), 1, "{mark} in {}", self.source);
        lines[0].1
    }
}

fn targets() -> PathBuf {
    repository().join("tests/targets")
}

/// Whether it is newer than every source: there are few, and they share headers.
fn is_current(built: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    let Ok(made) = modified(built) else { return false };
    let sources = fs::read_dir(targets()).expect("tests/targets can be read");
    sources.flatten().all(|entry| modified(&entry.path()).is_ok_and(|changed| changed < made))
}

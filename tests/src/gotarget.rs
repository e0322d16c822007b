//! Builds and runs Go programs of known behavior (`tests/targets/go`), with every installed Go
//! version and the usual build options.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use object::{Object as _, ObjectSymbol as _};

use crate::{Profile, notes, repository};

/// The latest version, which `scripts/setup-tests` always installs. `--all-go` also installs the
/// other supported ones.
pub const LAST: &str = "1.27.3";
const OTHERS: [&str; 6] = ["1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6"];

/// How a program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// `go build`.
    Plain,
    /// `-ldflags='-s -w'`.
    Stripped,
    /// `-buildmode=pie`.
    Pie,
    /// With C code (cgo).
    Cgo,
    /// Stripped, position-independent and with cgo.
    StrippedPieCgo,
    /// `-N -l`, stripped: in such code, the addresses of runtime variables cannot be found
    /// reliably.
    UnoptimisedStripped,
}

/// The builds that every feature must support.
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

    fn has_cgo(self) -> bool {
        matches!(self, Self::Cgo | Self::StrippedPieCgo)
    }
}

fn goroot(version: &str) -> PathBuf {
    repository().join(".cache/go").join(version).join("go")
}

/// The installed versions, the latest last. Reports the missing ones on stderr.
#[must_use]
pub fn installed() -> Vec<&'static str> {
    let (present, missing): (Vec<&str>, Vec<&str>) =
        OTHERS.into_iter().partition(|v| goroot(v).join("bin/go").exists());
    if !missing.is_empty() {
        let missing = missing.join(", ");
        notes::of_all(&format!(
            "NOT RUN for Go {missing}: scripts/setup-tests --all-go installs them"
        ));
    }
    present.into_iter().chain([LAST]).collect()
}

/// Runs a check for each installed version and reports those that are not installed.
pub fn for_each_version(check: impl Fn(&str)) {
    for version in installed() {
        eprintln!("— Go {version}");
        check(version);
    }
}

/// Builds a program of `tests/targets/go`.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn build(version: &str, program: &str, build: Build) -> PathBuf {
    build_with(version, program, build, "", &[]).0
}

/// Like [`build`], with more flags; `suffix` distinguishes the file's name. Also returns the
/// compiler's messages.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn build_with(
    version: &str,
    program: &str,
    build: Build,
    suffix: &str,
    flags: &[&str],
) -> (PathBuf, String) {
    let root = goroot(version);
    assert!(root.join("bin/go").exists(), "Go {version}: run scripts/setup-tests");
    let name = format!("{program}-{version}-{build:?}{suffix}");
    let out = repository().join(".cache/gobuild").join(&name);
    std::fs::create_dir_all(out.parent().expect("a folder")).expect(".cache can be written");
    // Tests are processes that run at the same time: one of them builds, the others find it built.
    let lock = std::fs::File::create(out.with_file_name(format!(".{name}.lock")))
        .expect("a lock file can be made");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock can be taken");
    let output = Command::new(root.join("bin/go"))
        .current_dir(repository().join("tests/targets/go").join(program))
        .env("GOROOT", &root)
        // Git refuses to read the checkout of another user, which `go build` would do.
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOTELEMETRY", "off")
        .env("GOCACHE", repository().join(".cache/gocache"))
        .env("CGO_ENABLED", if build.has_cgo() { "1" } else { "0" })
        .args(["build", "-p", "1"])
        .args(build.flags())
        .args(flags)
        .arg("-o")
        .arg(&out)
        .arg(".")
        .output()
        .expect("go build runs");
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "go build of {program} with {version} {build:?}: {messages}");
    (out, messages)
}

/// A running Go program; killed when dropped. It reads one command per line and ends each answer
/// with a line `@@END`.
#[derive(Debug)]
pub struct GoTarget {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    path: PathBuf,
}

/// The sampling rates of Go's runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// `MemProfileRate`.
    pub heap: u64,
    /// `blockprofilerate`, in ticks.
    pub block: u64,
    /// `mutexprofilerate`.
    pub mutex: u64,
}

/// Sampling is off.
pub const NO_RATES: Rates = Rates { heap: 0, block: 0, mutex: 0 };

impl GoTarget {
    /// Builds and starts a program.
    #[must_use]
    pub fn start(version: &str, program: &str, how: Build) -> Self {
        Self::run(&build(version, program, how), &[])
    }

    /// Starts a program and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn run(path: &Path, env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(path)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let input = child.stdin.take().expect("stdin is a pipe");
        let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut target = Self { child, input, output, path: path.to_owned() };
        let ready = target.answer();
        assert!(ready.starts_with("ready"), "{ready}");
        target
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command and returns what the program printed.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    /// Sends a command without waiting for the answer.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the target reads its stdin");
    }

    fn answer(&mut self) -> String {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let n = self.output.read_line(&mut line).expect("an answer");
            assert!(n > 0, "the target ended: {text}");
            if line == "@@END\n" {
                return text;
            }
            text.push_str(&line);
        }
    }

    /// The program's own profile of a kind, as written by its runtime.
    ///
    /// # Panics
    /// When it writes none.
    #[must_use]
    pub fn own_profile(&mut self, kind: &str) -> Profile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        self.ask(&format!("write {kind} {}", file.path().display()));
        let bytes = std::fs::read(file.path()).expect("the program wrote its profile");
        Profile::decode_foreign(&bytes)
    }

    /// The value of a word-sized variable of the program. Requires symbols and a program loaded at
    /// its link address.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn variable(&self, name: &str) -> u64 {
        let file = std::fs::read(&self.path).expect("the program");
        let elf = object::File::parse(&*file).expect("an ELF file");
        let symbol = elf.symbols().find(|s| s.name() == Ok(name));
        self.word(symbol.unwrap_or_else(|| panic!("no {name}")).address())
    }

    /// The 8-byte word at an address of its memory.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn word(&self, address: u64) -> u64 {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid())).expect("its memory");
        let mut word = [0; 8];
        let read = memory.read_exact_at(&mut word, address);
        read.unwrap_or_else(|e| panic!("{address:#x}: {e}"));
        u64::from_le_bytes(word)
    }

    /// The current rates, read from its memory. Requires symbols.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn rates(&self) -> Rates {
        Rates {
            heap: self.variable("runtime.MemProfileRate"),
            block: self.variable("runtime.blockprofilerate"),
            mutex: self.variable("runtime.mutexprofilerate"),
        }
    }

    /// The offsets of fields of the runtime's types in this program, from its DWARF.
    ///
    /// # Panics
    /// When the DWARF lacks one.
    #[must_use]
    pub fn offsets<const N: usize>(&self, fields: [&str; N]) -> [u64; N] {
        let script = repository().join("scripts/go-offsets");
        let output = Command::new(script).arg("--binary").arg(&self.path).output();
        let output = output.expect("scripts/go-offsets runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        fields.map(|field| {
            let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(' '));
            let offset = line.and_then(|offset| offset.parse().ok());
            offset.unwrap_or_else(|| panic!("{field} in:\n{text}"))
        })
    }

    /// Waits until the rates satisfy a condition.
    ///
    /// # Panics
    /// When they do not within minutes.
    pub fn wait_rates(&self, what: &str, holds: impl Fn(Rates) -> bool) {
        let began = std::time::Instant::now();
        while !holds(self.rates()) {
            assert!(began.elapsed().as_secs() < 180, "{what}: {:?}", self.rates());
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Kills it without reaping it: it stays a zombie.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }
}

impl Drop for GoTarget {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

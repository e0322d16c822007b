//! Runs the `exoprof` release binary, captures its output and measures its memory.

use std::ffi::OsStr;
use std::io::Read;
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Profile, procfs, repository};

/// Limit for waiting until exoprof records, far above what it needs.
const PATIENCE: Duration = Duration::from_secs(180);
/// Limit for waiting for the CPU time of a busy process: hundreds of times what a quiet machine
/// needs.
const STARVED: Duration = Duration::from_secs(600);

/// The release binary: `EXOPROF_BIN`, or the result of `cargo build --release -p exoprof`.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("EXOPROF_BIN") {
            return path.into();
        }
        let root = repository();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        // The variables that cargo sets for a test of its own package would make build scripts run
        // again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&name);
            }
        }
        let status = build
            .args(["build", "--release", "--quiet", "-p", "exoprof"])
            .current_dir(&root)
            .stdin(Stdio::null())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "exoprof does not build");
        let folder = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |folder| root.join(folder));
        folder.join("release/exoprof")
    })
}

/// The binary as a command without arguments, without variables that would change its behavior.
#[must_use]
pub fn exoprof() -> Command {
    cleaned(Command::new(binary()))
}

/// Makes a command run where tracefs is not mounted, as in most containers. Requires root; the
/// machine's own mounts stay.
#[must_use]
pub fn without_tracefs(command: &Command) -> Command {
    // `umount` fails where neither is mounted.
    let script = "umount --all --types tracefs,debugfs; \
                  test ! -e /sys/kernel/tracing/events && exec \"$@\"";
    let mut outer = cleaned(Command::new("unshare"));
    outer.args(["--mount", "sh", "-c", script, "sh"]).arg(command.get_program());
    outer.args(command.get_args());
    outer
}

fn cleaned(mut command: Command) -> Command {
    command.stdin(Stdio::null());
    for name in ["NO_COLOR", "RUST_LOG", "SUDO_UID", "SUDO_GID", "SUDO_USER"] {
        command.env_remove(name);
    }
    command
}

/// Records a process for the given duration and returns the decoded profile.
#[must_use]
pub fn record(pid: u32, args: &[&str]) -> Recording {
    Recorder::of(pid).args(args).start().finish().recording()
}

/// Records a busy process until it has used `seconds` of CPU time, however long that takes: a busy
/// machine thus gives as many samples as a quiet one, with the same random error.
///
/// # Panics
/// When the process uses hardly any CPU time or exoprof ends early.
#[must_use]
pub fn record_busy(pid: u32, seconds: f64, args: &[&str]) -> Recording {
    let mut running = Recorder::of(pid).args(args).args(["-d", "1h"]).start();
    // With the wall clock or ptrace, the start cannot be seen from outside; it takes little time.
    if !args.iter().any(|arg| ["wall", "ptrace"].contains(arg)) {
        running.wait_recording();
    }
    running.wait_used(pid, seconds);
    running.signal(Signal::SIGINT);
    running.finish().recording()
}

/// A run to be started. The recording goes to `profile.pb.gz` in a temporary folder, unless
/// [`Self::name_itself`] leaves the naming to exoprof.
#[derive(Debug)]
pub struct Recorder {
    command: Command,
    folder: TempDir,
    output: bool,
    command_line: Vec<String>,
}

impl Recorder {
    /// `exoprof record -p PID`.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self::new().args(["-p", &pid.to_string()])
    }

    /// `exoprof record`.
    #[must_use]
    pub fn new() -> Self {
        Self::launched_by(&[])
    }

    /// `LAUNCHER… exoprof record`, where the launcher (`setpriv …`) replaces itself with exoprof by
    /// exec.
    ///
    /// # Panics
    /// When the temporary folder cannot be made.
    #[must_use]
    pub fn launched_by(launcher: &[&OsStr]) -> Self {
        let mut command = match launcher {
            [] => exoprof(),
            [first, rest @ ..] => {
                let mut command = cleaned(Command::new(first));
                command.args(rest).arg(binary());
                command
            }
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        command.arg("record").current_dir(folder.path());
        Self { command, folder, output: true, command_line: Vec::new() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Records `-- CMD ARG…` in place of a PID.
    #[must_use]
    pub fn command(mut self, command_line: &[&str]) -> Self {
        self.command_line = command_line.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Passes no `-o`; the working folder is [`Self::folder`].
    #[must_use]
    pub fn name_itself(mut self) -> Self {
        self.output = false;
        self
    }

    /// The folder of the result, which is also the working folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it and returns immediately.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(mut self) -> Running {
        let path = self.folder.path().join("profile.pb.gz");
        if self.output {
            self.command.arg("-o").arg(&path);
        }
        if !self.command_line.is_empty() {
            self.command.arg("--").args(&self.command_line);
        }
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", self.command));
        let stdout = drain(child.stdout.take().expect("stdout is a pipe"));
        let stderr = drain(child.stderr.take().expect("stderr is a pipe"));
        let streams = Some([stdout, stderr]);
        let invocation = format!("{:?}", self.command);
        Running { child, streams, folder: Some(self.folder), path, invocation, ended: None }
    }

    /// Runs it and waits until it ends.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.start().finish()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // After a read error, what was read so far is kept for the test's message.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// A running `exoprof record`; killed when dropped before it ends.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Readers of standard output and standard error.
    streams: Option<[JoinHandle<Vec<u8>>; 2]>,
    folder: Option<TempDir>,
    path: PathBuf,
    invocation: String,
    ended: Option<(ExitStatus, u64)>,
}

impl Running {
    /// exoprof's own process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until samples are taken. As seen from outside: it has mapped ring buffers of perf
    /// events, opens no more of them, and its main thread sleeps (waiting for samples or the end).
    ///
    /// # Panics
    /// When it ends first, or does not start within minutes.
    pub fn wait_recording(&mut self) {
        let began = Instant::now();
        let mut before = 0;
        loop {
            if let Some(ended) = wait4(self.child.id(), libc::WNOHANG) {
                self.ended = Some(ended);
                let account = self.collect();
                panic!("exoprof ended before it recorded: {account}");
            }
            let now = open_perf_events(self.child.id());
            if now > 0 && now == before && is_asleep(self.child.id()) {
                return;
            }
            before = now;
            assert!(began.elapsed() < PATIENCE, "{}: no perf events mapped", self.invocation);
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until its main thread sleeps in poll(2), waiting for the end of the recording. For
    /// backends whose start shows in no other way from outside.
    ///
    /// # Panics
    /// When it ends first, or does not start within minutes.
    pub fn wait_waiting(&mut self) {
        let began = Instant::now();
        let polls = || {
            let path = format!("/proc/{}/syscall", self.child.id());
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let number = text.split(' ').next().and_then(|n| n.parse::<i64>().ok());
            number.is_some_and(|n| n == libc::SYS_poll || n == libc::SYS_ppoll)
        };
        while !polls() {
            if let Some(ended) = wait4(self.child.id(), libc::WNOHANG) {
                self.ended = Some(ended);
                let account = self.collect();
                panic!("exoprof ended before it recorded: {account}");
            }
            assert!(began.elapsed() < PATIENCE, "{}: it does not wait in poll", self.invocation);
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a process has used `seconds` more of CPU time.
    ///
    /// # Panics
    /// When the process uses hardly any CPU time, or exoprof ends first.
    pub fn wait_used(&mut self, pid: u32, seconds: f64) {
        let (began, before) = (Instant::now(), procfs::cpu_of_all(pid));
        while procfs::cpu_of_all(pid).saturating_sub(before) < Duration::from_secs_f64(seconds) {
            assert!(self.is_running(), "{} has ended", self.invocation);
            assert!(began.elapsed() < STARVED, "{pid} is not busy");
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has been reaped.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("exoprof can be signalled");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = wait4(self.child.id(), libc::WNOHANG);
        }
        self.ended.is_none()
    }

    /// Waits until it ends, however it ends.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        self.collect()
    }

    fn collect(&mut self) -> Outcome {
        let ended = self.ended.or_else(|| wait4(self.child.id(), 0));
        self.ended = ended;
        let (status, max_rss_kib) = ended.expect("exoprof can be waited for");
        let [stdout, stderr] = self.streams.take().expect("finished once");
        Outcome {
            status,
            max_rss_kib,
            stdout: stdout.join().expect("stdout was read"),
            stderr: String::from_utf8_lossy(&stderr.join().expect("stderr was read")).into_owned(),
            path: self.path.clone(),
            folder: self.folder.take().expect("finished once"),
            invocation: self.invocation.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.signal(Signal::SIGKILL);
            self.ended = wait4(self.child.id(), 0);
        }
    }
}

fn open_perf_events(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    if !maps.contains("[perf_event]") {
        return 0;
    }
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|link| link.to_string_lossy().contains("[perf_event]"))
        .count()
}

fn is_asleep(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Waits for a child: its exit status and its peak resident memory in KiB. With WNOHANG, `None`
/// while it runs.
#[allow(unsafe_code)]
fn wait4(pid: u32, flags: i32) -> Option<(ExitStatus, u64)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let waited = loop {
        // SAFETY: both pointers are to live memory of the right type, and rusage is plain data.
        let waited =
            unsafe { libc::wait4(pid.cast_signed(), &raw mut status, flags, usage.as_mut_ptr()) };
        let error = std::io::Error::last_os_error();
        if waited >= 0 || error.kind() != std::io::ErrorKind::Interrupted {
            break waited;
        }
    };
    // SAFETY: zeroed or filled by the kernel; every bit pattern is a valid rusage.
    let usage = unsafe { usage.assume_init() };
    (waited > 0).then(|| (ExitStatus::from_raw(status), usage.ru_maxrss.cast_unsigned()))
}

/// How a run of exoprof ended, with its output.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status.
    pub status: ExitStatus,
    /// Peak resident memory of exoprof in KiB.
    pub max_rss_kib: u64,
    /// Standard output, raw.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// Where `-o` pointed.
    pub path: PathBuf,
    /// The working folder, deleted when dropped.
    pub folder: TempDir,
    invocation: String,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}\n--- stderr\n{}", self.invocation, self.status, self.stderr)
    }
}

impl Outcome {
    /// Decodes the profile of a recording that must have succeeded.
    ///
    /// # Panics
    /// When exoprof failed, wrote nothing, or wrote an invalid profile.
    #[must_use]
    pub fn recording(self) -> Recording {
        assert_eq!(self.status.code(), Some(0), "{self}");
        let bytes = std::fs::read(&self.path)
            .unwrap_or_else(|e| panic!("{}: {e}\n{self}", self.path.display()));
        Recording { profile: Profile::decode(&bytes), bytes, outcome: self }
    }

    /// Asserts that exoprof failed with this status and all of these words in its message.
    ///
    /// # Panics
    /// When the status or the message differs, or a file was written.
    #[track_caller]
    pub fn assert_fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert!(self.files().is_empty(), "a failure leaves no file: {:?}\n{self}", self.files());
        assert!(!self.stderr.contains("panicked"), "{self}");
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(stderr.contains(&word.to_lowercase()), "the message lacks {word:?}: {self}");
        }
    }

    /// The names of all files in the working folder, sorted; tests check that no temporary file is
    /// left.
    ///
    /// # Panics
    /// When the folder cannot be read.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder can be read");
        let mut names: Vec<_> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A successful run and its profile.
#[derive(Debug)]
pub struct Recording {
    /// The decoded profile.
    pub profile: Profile,
    /// The file as written.
    pub bytes: Vec<u8>,
    outcome: Outcome,
}

impl Deref for Recording {
    type Target = Outcome;

    fn deref(&self) -> &Outcome {
        &self.outcome
    }
}

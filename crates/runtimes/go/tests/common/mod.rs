//! Starts Go programs with known behavior and accesses their memory.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use goruntime::Runtime;
use image::{Avma, Bias, ElfImage, FileOffset, Memory, Unreadable};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

#[path = "../../../../gopclntab/tests/common/mod.rs"]
mod toolchains;

pub use toolchains::*;

/// The memory of a live process.
pub struct ProcMemory(File);

impl ProcMemory {
    pub fn open(pid: u32) -> Self {
        let path = format!("/proc/{pid}/mem");
        let file = File::options().read(true).write(true).open(&path);
        Self(file.unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    pub fn write(&self, patch: &goruntime::Patch) {
        assert_eq!(self.read_u64(patch.address), Ok(patch.old), "the patched word changed");
        self.0.write_all_at(&patch.new.to_le_bytes(), patch.address.0).expect("a write to memory");
    }
}

impl Memory for ProcMemory {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read_exact_at(buf, addr.0).map_err(|_| Unreadable(addr))
    }
}

/// A running Go program. It is killed on drop.
pub struct Target {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub memory: ProcMemory,
    pub image: Arc<ElfImage>,
    pub bias: Bias,
    pub runtime: Runtime,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    pub fn start(version: &str, program: &str, how: Build) -> Self {
        Self::run(&build(version, program, how), &[])
    }

    pub fn run(path: &Path, env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(path)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let input = child.stdin.take().expect("stdin");
        let mut output = BufReader::new(child.stdout.take().expect("stdout"));
        let ready = read_output(&mut output);
        assert!(ready.starts_with("ready"), "{ready}");
        let memory = ProcMemory::open(child.id());
        let (image, bias) = image_of(child.id());
        let runtime = Runtime::find(&image, bias, &memory)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { child, input, output, memory, image, bias, runtime }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops all threads of the target while `work` runs.
    pub fn while_stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        let pid = Pid::from_raw(self.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).expect("a stop");
        let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a stop");
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
        let done = work();
        kill(pid, Signal::SIGCONT).expect("a continuation");
        done
    }

    /// Sends a command without waiting for its output.
    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("a command");
    }

    /// Sends a command and returns what the program printed.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        read_output(&mut self.output)
    }
}

/// Reads what the program prints for a command, up to the end marker.
fn read_output(output: &mut impl BufRead) -> String {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).expect("output") > 0, "the target died: {text}");
        if line == "@@END\n" {
            return text;
        }
        text.push_str(&line);
    }
}

/// The executable of a process and its bias.
pub fn image_of(pid: u32) -> (Arc<ElfImage>, Bias) {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("its exe");
    let file = File::open(format!("/proc/{pid}/exe")).expect("its exe");
    let image = Arc::new(ElfImage::open(&file).expect("an ELF file"));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let bias = maps.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (range, rights, offset) = (words.next()?, words.next()?, words.next()?);
        if !rights.contains('x') || !line.ends_with(exe.to_str()?) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let hex = |s| u64::from_str_radix(s, 16).ok();
        let (start, end) = (hex(start)?, hex(end)?);
        image.bias_of_mapping(Avma(start), FileOffset(hex(offset)?), end - start)
    });
    (image, bias.expect("an executable mapping of the image"))
}

/// Panics at the first difference of two texts and shows the lines around it.
pub fn assert_same_text(ours: &str, theirs: &str, what: &str) {
    for (i, (a, b)) in ours.lines().zip(theirs.lines()).enumerate() {
        if a != b {
            let context = |t: &str| {
                t.lines().skip(i.saturating_sub(4)).take(9).collect::<Vec<_>>().join("\n")
            };
            panic!(
                "{what}: line {} differs\n--- ours\n{}\n--- Go's\n{}",
                i + 1,
                context(ours),
                context(theirs)
            );
        }
    }
    assert_eq!(ours.lines().count(), theirs.lines().count(), "{what}: number of lines");
}

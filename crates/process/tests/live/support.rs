//! Starts target processes with known behavior and runs code with fewer privileges.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A child that is killed and reaped when the test ends.
pub struct Target {
    pub child: Child,
    pub out: BufReader<ChildStdout>,
}

impl Target {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Runs python and waits for its first line.
    pub fn python(script: &str, args: &[&Path]) -> (Self, String) {
        let mut target = Self::start(Command::new("python3").arg("-c").arg(script).args(args));
        let line = target.line();
        (target, line)
    }

    /// Starts a program that behaves like `cat` and waits until it has loaded its libraries.
    pub fn cat(path: &Path) -> Self {
        let mut target = Self::start(&mut Command::new(path));
        target.ping();
        target
    }

    /// Sends a line and waits for its echo.
    pub fn ping(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"ping\n").unwrap();
        assert_eq!(self.line(), "ping");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Kills the child without reaping it. It is a zombie once its pidfd signals the exit.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies `cat` into `dir`. Another process makes the copy: if this process opened it for writing,
/// children that other tests fork meanwhile would inherit the descriptor, and executing the copy
/// would fail with ETXTBSY.
pub fn copy_of_cat(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("cat");
    assert!(Command::new("cp").arg("/bin/cat").arg(&path).status().unwrap().success());
    path
}

/// Runs `f` as user nobody, on a separate thread: the raw system call affects one thread only.
#[allow(unsafe_code)]
pub fn as_nobody<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        // SAFETY: the arguments are integers only, and the change ends with this thread.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0, "the tests must run as root");
        f()
    })
}

/// Runs `f` on a thread without the capabilities that are required to open `map_files`, so that
/// files must be opened by path.
#[allow(unsafe_code)]
pub fn without_map_files<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        // _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted, inheritable, twice.
        let mut header = [0x2008_0522u32, 0];
        let mut data = [0u32; 6];
        // SAFETY: both arrays have the layout of capget(2) and outlive the calls.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()), 0);
            data[0] &= !(1 << 21);
            data[3] &= !(1 << (40 - 32));
            assert_eq!(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()), 0);
        }
        f()
    })
}

fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|s| s.spawn(f).join()).unwrap_or_else(|e| std::panic::resume_unwind(e))
}

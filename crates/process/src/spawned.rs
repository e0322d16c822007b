//! Starts a command that waits before its exec until a profiler is attached to it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program cannot be executed.
    #[error("cannot run {program}: {error}")]
    Exec {
        /// As it was given.
        program: String,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// No process or pipe could be made.
    #[error("cannot start a process for {program}: {error}")]
    Fork {
        /// As it was given.
        program: String,
        /// The system's error.
        #[source]
        error: io::Error,
    },
}

/// A child that waits before its exec. [`Spawned::release`] lets it continue; dropping this instead
/// makes it exit without having run anything. It also exits when we die.
///
/// The child has our user, working directory, environment and terminal; Ctrl-C reaches both.
#[derive(Debug)]
pub struct Spawned {
    pid: i32,
    program: String,
    /// `None` once released.
    gate: Option<OwnedFd>,
    /// `Command::spawn` returns only after the exec, so it waits on a thread of its own.
    starter: Option<JoinHandle<io::Result<Child>>>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Spawned {
    /// Forks a child for `command` (a program, looked up in `PATH`, and its arguments).
    ///
    /// # Errors
    /// [`SpawnError::Fork`]; `InvalidInput` in it where there is no program at all.
    pub fn new(command: &[OsString]) -> Result<Self, SpawnError> {
        let program_name = command.first().map(OsString::as_os_str).unwrap_or(OsStr::new(""));
        let program = program_name.to_string_lossy().into_owned();
        let fail = |error: io::Error| SpawnError::Fork { program: program.clone(), error };
        let (program_name, arguments) =
            command.split_first().ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| fail(e.into()));
        let (gate_read, gate) = pipe()?;
        let (pid_read, pid_write) = pipe()?;
        let mut builder = Command::new(program_name);
        builder.args(arguments);
        hold_before_exec(&mut builder, &gate_read, gate.as_raw_fd(), &pid_write);
        let starter = std::thread::Builder::new().name("spawn".into()).spawn(move || {
            let result = builder.spawn();
            // The child's ends have to stay open here until it has inherited them.
            drop((gate_read, pid_write));
            result
        });
        let starter = starter.map_err(&fail)?;
        let mut pid = [0; 4];
        match File::from(pid_read).read_exact(&mut pid) {
            Ok(()) => {
                let pid = i32::from_ne_bytes(pid);
                Ok(Self { pid, program, gate: Some(gate), starter: Some(starter) })
            }
            // The pipe was closed without a PID: there was no fork, and the thread knows why.
            Err(e) => {
                drop(gate);
                let error = match starter.join() {
                    Ok(Err(error)) => error,
                    _ => e,
                };
                Err(fail(error))
            }
        }
    }

    /// The child's process id: for [`crate::Process::open`] and for perf events with
    /// `enable_on_exec`. Before the exec its name, executable and mappings are still ours.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Has the child execute the command, and returns once it does.
    ///
    /// # Errors
    /// [`SpawnError::Exec`] where it cannot; the child is gone then.
    pub fn release(mut self) -> Result<Running, SpawnError> {
        let program = std::mem::take(&mut self.program);
        let fail = |error| SpawnError::Exec { program, error };
        if let Some(gate) = self.gate.take() {
            // Fails only where the child was killed meanwhile; then the thread reports it.
            let _ = File::from(gate).write_all(&[GO]);
        }
        let joined = self.starter.take().map(JoinHandle::join);
        match joined {
            Some(Ok(Ok(child))) => Ok(Running { child }),
            Some(Ok(Err(error))) => Err(fail(error)),
            _ => Err(fail(io::Error::other("the starting thread failed"))),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // A byte and not just the end of the pipe, of which another waiting child that was forked
        // meanwhile has a copy. The thread then reaps the child.
        if let Some(gate) = self.gate.take() {
            let _ = File::from(gate).write_all(&[STOP]);
        }
        if let Some(starter) = self.starter.take() {
            let _ = starter.join();
        }
    }
}

impl Running {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(-1)
    }

    /// Waits for it to exit and reaps it.
    ///
    /// # Errors
    /// The error of `waitpid`.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Its exit status if it has ended already.
    ///
    /// # Errors
    /// The error of `waitpid`.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

const STOP: u8 = 0;
const GO: u8 = 1;

#[allow(unsafe_code)]
fn hold_before_exec(
    command: &mut Command,
    gate_read: &OwnedFd,
    gate_write: RawFd,
    pid_write: &OwnedFd,
) {
    let (gate_read, pid_write) = (gate_read.as_raw_fd(), pid_write.as_raw_fd());
    let hold = move || {
        // SAFETY: between fork and exec only async-signal-safe calls are made: close, getpid,
        // write, read. The descriptors are open, since the parent keeps them until the fork is
        // done. Our own copy of the writing end has to go, or the parent's death would not be
        // seen; the child never uses that number as its own again.
        unsafe {
            libc::close(gate_write);
            let pid = libc::getpid().to_ne_bytes();
            if libc::write(pid_write, pid.as_ptr().cast(), pid.len()) != 4 {
                return Err(io::Error::last_os_error());
            }
            libc::close(pid_write);
            let mut go = 0u8;
            loop {
                match libc::read(gate_read, (&raw mut go).cast(), 1) {
                    1 if go == GO => return Ok(()),
                    -1 if *libc::__errno_location() == libc::EINTR => {}
                    // The parent gave up or died.
                    _ => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                }
            }
        }
    };
    // SAFETY: the closure allocates nothing, takes no lock and calls only what signal-safety(7)
    // allows.
    unsafe {
        command.pre_exec(hold);
    }
}

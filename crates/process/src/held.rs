//! Changes words of a process' memory for a while and restores them, even if we are killed.
//!
//! A [`HeldWord`] is restored when it is dropped. Before anything is written, a small process is
//! forked that waits for our end and restores it if we are killed.
//!
//! ```text
//!   we ──── socket ────► watchdog      a byte: the word is restored, it exits
//!    │                      │          end of file without one: we are dead, it restores
//!    └──► /proc/PID/mem ◄───┘          the process exits: nothing is left to do
//! ```
//!
//! The memory is written through a descriptor of `/proc/PID/mem`, which belongs to one address
//! space: after an exec, or once the PID is reused, writes through it fail.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use image::Avma;

use crate::watchdog::Watchdog;
use crate::{Claim, Process};

/// Why a word was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Its memory cannot be opened or written.
    #[error("cannot write the memory of process {pid} at {address}: {error}")]
    Memory {
        /// The process.
        pid: i32,
        /// Where.
        address: Avma,
        /// The system's error.
        error: io::Error,
    },
    /// The word no longer has the expected value.
    #[error(
        "the word at {address} of process {pid} has changed: it is {found:#x}, not {expected:#x}"
    )]
    Changed {
        /// The process.
        pid: i32,
        /// Where.
        address: Avma,
        /// What should be there.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Nothing is written without a watchdog, since nobody would restore it if we are killed.
    #[error("cannot start the watchdog that restores the memory of process {pid}: {error}")]
    Watchdog {
        /// The process.
        pid: i32,
        /// The system's error.
        error: io::Error,
    },
}

/// Whether a held word was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The old value was written back.
    Yes,
    /// Somebody else changed the word in the meantime; their value was left alone.
    ChangedByOthers(u64),
    /// The process has exited, or executes another program.
    Gone,
}

/// The memory of a live process, for writing. Requires `PTRACE_MODE_ATTACH_FSCREDS`.
#[derive(Debug)]
pub struct WritableMemory {
    pid: i32,
    file: File,
}

impl WritableMemory {
    /// Opens the memory of the program that the process executes now. Later writes change that
    /// program or, after an exec, fail: open this before looking up addresses.
    ///
    /// # Errors
    /// [`WriteError::Memory`].
    pub fn open(process: &Process) -> Result<Self, WriteError> {
        let pid = process.pid();
        let failed = |error| WriteError::Memory { pid, address: Avma(0), error };
        let file = process
            .open_memory_dir(process.memory_thread())
            .and_then(|dir| dir.open_for_writing("mem"))
            .map_err(failed)?;
        Ok(Self { pid, file })
    }

    /// Replaces the word `old` with `new` and never restores it: for words that the program itself
    /// changes all the time. Use [`HeldWord`] for others.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was written then.
    pub fn replace(&self, address: Avma, old: u64, new: u64) -> Result<(), WriteError> {
        let found = self.read(address)?;
        if found != old {
            return Err(WriteError::Changed { pid: self.pid, address, expected: old, found });
        }
        self.write(address, new)
    }

    fn read(&self, address: Avma) -> Result<u64, WriteError> {
        let mut word = [0; 8];
        let failed = |error| WriteError::Memory { pid: self.pid, address, error };
        self.file.read_exact_at(&mut word, address.0).map_err(failed)?;
        Ok(u64::from_ne_bytes(word))
    }

    fn write(&self, address: Avma, value: u64) -> Result<(), WriteError> {
        let failed = |error| WriteError::Memory { pid: self.pid, address, error };
        self.file.write_all_at(&value.to_ne_bytes(), address.0).map_err(failed)
    }
}

/// A word that has our value until this is dropped or we die, in whatever way.
#[derive(Debug)]
pub struct HeldWord {
    memory: WritableMemory,
    pidfd: OwnedFd,
    address: Avma,
    old: u64,
    new: u64,
    watchdog: Option<Watchdog>,
    /// Held until the word is restored, by the watchdog too.
    _claim: Option<Claim>,
}

impl HeldWord {
    /// Replaces the word `old` with `new`. The word must be aligned to 8 bytes. `claim` is released
    /// once the word is restored.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is changed then.
    pub fn write(
        process: &Process,
        memory: &WritableMemory,
        address: Avma,
        old: u64,
        new: u64,
        claim: Option<Claim>,
    ) -> Result<Self, WriteError> {
        let pid = process.pid();
        let failed = |error| WriteError::Watchdog { pid, error };
        let memory = WritableMemory { pid, file: memory.file.try_clone().map_err(failed)? };
        let found = memory.read(address)?;
        if found != old {
            return Err(WriteError::Changed { pid, address, expected: old, found });
        }
        let pidfd = process.as_fd().try_clone_to_owned().map_err(failed)?;
        let change = crate::watchdog::Change { address: address.0, old, new };
        let lock = claim.as_ref().map(|c| c.as_fd().as_raw_fd());
        let watchdog = Watchdog::start(memory.file.as_raw_fd(), pidfd.as_raw_fd(), lock, change)
            .map_err(failed)?;
        let held =
            Self { memory, pidfd, address, old, new, watchdog: Some(watchdog), _claim: claim };
        held.memory.write(address, new)?;
        Ok(held)
    }

    /// The value that was there before.
    #[must_use]
    pub fn old(&self) -> u64 {
        self.old
    }

    /// Writes the old value back if ours is still there.
    pub fn restore(mut self) -> Restored {
        self.write_back()
    }

    fn write_back(&mut self) -> Restored {
        let Some(watchdog) = self.watchdog.take() else { return Restored::Yes };
        let exited =
            crate::process::readable_within(self.pidfd.as_fd(), Some(std::time::Duration::ZERO));
        let restored = match self.memory.read(self.address) {
            _ if exited.unwrap_or(false) => Restored::Gone,
            Err(_) => Restored::Gone,
            Ok(found) if found != self.new => Restored::ChangedByOthers(found),
            Ok(_) => match self.memory.write(self.address, self.old) {
                Ok(()) => Restored::Yes,
                Err(_) => Restored::Gone,
            },
        };
        watchdog.dismiss();
        restored
    }
}

impl Drop for HeldWord {
    fn drop(&mut self) {
        self.write_back();
    }
}

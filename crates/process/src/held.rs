//! Words of a target's memory that are changed for a while.
//!
//! A [`HeldWord`] is put back when it is dropped, and also when we are killed: before anything is
//! written, a small process of its own is there that waits for our end.
//!
//! ```text
//!   we ──── socket ────► watchdog      a word: all is put back, it exits
//!    │                      │          end of file without one: we are dead, it puts back
//!    └──► /proc/PID/mem ◄───┘          the target exits: nothing is left to do
//! ```
//!
//! The memory is written through a descriptor of `/proc/PID/mem`, which belongs to one address
//! space: after an exec, or when the number was given to another process, it leads nowhere.

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
    /// Something else is there than what is to be replaced.
    #[error("the word at {address} of process {pid} is {found:#x} and no longer {expected:#x}")]
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
    /// Without a watchdog nothing is written: nobody would put it back if we are killed.
    #[error("cannot start the watchdog that puts back what is changed in process {pid}: {error}")]
    Watchdog {
        /// The process.
        pid: i32,
        /// The system's error.
        error: io::Error,
    },
}

/// What became of a word that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The old value is there again.
    Yes,
    /// Somebody else has changed it meanwhile; it was left alone.
    ChangedByOthers(u64),
    /// The process has exited, or executes another program.
    Gone,
}

/// The memory of a live process, for writing. Needs `PTRACE_MODE_ATTACH_FSCREDS`.
#[derive(Debug)]
pub struct WritableMemory {
    pid: i32,
    file: File,
}

impl WritableMemory {
    /// Opens the memory of the program that the process executes now. What is written later goes
    /// to that program or, after an exec, nowhere: so this is to be opened before addresses are
    /// looked up.
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

    /// Replaces the word `old` by `new`. Nothing puts this back: it is for what the target itself
    /// changes all the time. See [`HeldWord`] for the rest.
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

/// A word that holds a value of ours until this is dropped, or we die in whatever way.
#[derive(Debug)]
pub struct HeldWord {
    memory: WritableMemory,
    pidfd: OwnedFd,
    address: Avma,
    old: u64,
    new: u64,
    watchdog: Option<Watchdog>,
    /// Held until the word is put back, by the watchdog too.
    _claim: Option<Claim>,
}

impl HeldWord {
    /// Writes `new` where `old` is. The word must be aligned to 8 bytes. `claim` is given up once
    /// the word is put back.
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

    /// Puts the old value back, if ours is still there.
    pub fn restore(mut self) -> Restored {
        self.put_back()
    }

    fn put_back(&mut self) -> Restored {
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
        self.put_back();
    }
}

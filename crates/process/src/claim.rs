//! Locks what a recording changes in a process, so that one exoprof at a time changes it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::Process;

/// What a recording changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claimed {
    /// The rate of a Go program's heap profile.
    HeapRate,
    /// The rate of its block profile.
    BlockRate,
    /// The fraction of its mutex profile.
    MutexFraction,
}

impl Claimed {
    /// The file in `/proc/PID` that is locked for it. Nobody else locks these files, everyone who
    /// sees the process through this `/proc` sees the same ones, and nothing is left behind.
    fn file(self) -> &'static str {
        match self {
            Self::HeapRate => "limits",
            Self::BlockRate => "statm",
            Self::MutexFraction => "cgroup",
        }
    }
}

/// A lock that is held as long as one of its descriptors is open.
#[derive(Debug)]
pub struct Claim(Flock<File>);

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Process {
    /// Takes the lock. `None` while another exoprof holds it, or another recording of ours.
    ///
    /// # Errors
    /// The error of opening or locking the file; `ESRCH` or `ENOENT` once the process is gone.
    pub fn claim(&self, what: Claimed) -> io::Result<Option<Claim>> {
        let file = self.dir.open_file(what.file())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Claim(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }
}

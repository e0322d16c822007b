//! Who may change a process: one exoprof at a time, for each thing that can be changed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::Process;

/// What is changed.
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
    /// The file below `/proc/PID` whose lock stands for it. Nobody else locks these files, they
    /// are the same for everyone who looks at this process through this `/proc`, and nothing is
    /// left behind.
    fn file(self) -> &'static str {
        match self {
            Self::HeapRate => "limits",
            Self::BlockRate => "statm",
            Self::MutexFraction => "cgroup",
        }
    }
}

/// Held as long as one of its descriptors is open.
#[derive(Debug)]
pub struct Claim(Flock<File>);

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Process {
    /// Claims one thing for changing it. `None` while somebody else has it: another exoprof, or
    /// another recording of ours.
    ///
    /// # Errors
    /// The system's error; `ESRCH` or `ENOENT` once the process is gone.
    pub fn claim(&self, what: Claimed) -> io::Result<Option<Claim>> {
        let file = self.dir.open_file(what.file())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Claim(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }
}

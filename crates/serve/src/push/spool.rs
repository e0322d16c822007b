//! Messages that wait on disk: they survive an absent server and our own end, within a bound.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// The end of a waiting message's file name.
const SUFFIX: &str = ".push";

/// Why a folder cannot be a spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It is not there and cannot be made.
    #[error("cannot make the spool {}", .folder.display())]
    Make {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing can be written there.
    #[error("cannot write to the spool {}", .folder.display())]
    Write {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server sends what is in it.
    #[error(
        "the spool {} is in use by another exoprof: give --spool another folder",
        .0.display()
    )]
    InUse(PathBuf),
    /// What waits there cannot be read.
    #[error("cannot read the spool {}", .folder.display())]
    Read {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A folder of messages, oldest first.
pub struct Spool {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Two servers must not send the same messages.
    _lock: Flock<File>,
}

#[derive(Default)]
struct State {
    /// Number and size of each message.
    queue: VecDeque<(u64, u64)>,
    bytes: u64,
    next: u64,
    dropped: u64,
    /// Nothing more comes; what is there may be sent until then.
    closing: Option<Instant>,
}

/// What a sender does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this message.
    Message(u64),
    /// End.
    Closed,
}

impl Spool {
    /// Opens the folder, which it makes if need be, and what waits in it from earlier.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, SpoolError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| SpoolError::Make { folder: folder.into(), source })?;
        let lock = File::create(folder.join("lock"))
            .map_err(|source| SpoolError::Write { folder: folder.into(), source })?;
        let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            return Err(SpoolError::InUse(folder.into()));
        };
        let state = State::read(folder)
            .map_err(|source| SpoolError::Read { folder: folder.into(), source })?;
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Self { folder: folder.into(), limit, state, changed, _lock: lock })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016}{SUFFIX}"))
    }

    /// Adds a message. Gives how many older ones had to go for it: they were never sent.
    pub fn put(&self, message: &[u8]) -> io::Result<u64> {
        let size = message.len() as u64;
        if size > self.limit {
            self.lock().dropped += 1;
            return Ok(1);
        }
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next - 1
        };
        // Beside its place first: after a crash there is no half of a message.
        let part = self.folder.join(format!("{number:016}.part"));
        let written = File::create(&part).and_then(|mut file| file.write_all(message));
        if let Err(e) = written.and_then(|()| std::fs::rename(&part, self.path(number))) {
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
        let mut state = self.lock();
        let mut gone = 0;
        while state.bytes + size > self.limit {
            let Some((oldest, size)) = state.queue.pop_front() else { break };
            state.bytes = state.bytes.saturating_sub(size);
            let _ = std::fs::remove_file(self.path(oldest));
            gone += 1;
        }
        state.dropped += gone;
        state.queue.push_back((number, size));
        state.bytes += size;
        self.changed.notify_all();
        Ok(gone)
    }

    /// Waits for the oldest message.
    pub fn next(&self) -> Next {
        let mut state = self.lock();
        loop {
            let closed = state.closing.is_some_and(|until| Instant::now() >= until);
            match state.queue.front() {
                Some((number, _)) if !closed => return Next::Message(*number),
                _ if state.closing.is_some() => return Next::Closed,
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The bytes of a message; `None` when it had to go for newer ones.
    pub fn read(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let file = match File::open(self.path(number)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        file.take(self.limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Takes a message away: it was sent, or nobody wants it.
    pub fn remove(&self, number: u64) {
        let mut state = self.lock();
        if let Some(at) = state.queue.iter().position(|(n, _)| *n == number) {
            let size = state.queue.remove(at).map_or(0, |(_, size)| size);
            state.bytes = state.bytes.saturating_sub(size);
        }
        let _ = std::fs::remove_file(self.path(number));
    }

    /// Waits, at most until the spool is closed.
    pub fn pause(&self, time: Duration) {
        let state = self.lock();
        // Only the closing ends the wait early; new messages do not.
        let wait = self.changed.wait_timeout_while(state, time, |s| s.closing.is_none());
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// No message comes any more. Those that wait may be sent for `patience`, and stay for the
    /// next time after that.
    pub fn close(&self, patience: Duration) {
        self.lock().closing = Some(Instant::now() + patience);
        self.changed.notify_all();
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.lock().closing.is_some()
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// How many messages were never sent, for want of room.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

impl State {
    fn read(folder: &Path) -> io::Result<Self> {
        let mut state = Self::default();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".part") {
                let _ = std::fs::remove_file(entry.path());
            }
            let Some(number) = name.strip_suffix(SUFFIX) else { continue };
            // Ours are 16 digits; whatever else is there is left alone.
            let Ok(number) = number.parse::<u64>() else { continue };
            found.push((number, entry.metadata()?.len()));
        }
        found.sort_unstable();
        state.next = found.last().map_or(0, |(number, _)| number.saturating_add(1));
        state.bytes = found.iter().map(|(_, size)| *size).sum();
        state.queue = found.into();
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1000).unwrap();
        assert!(Spool::open(folder.path(), 1000).is_err(), "it is in use");
        assert_eq!(spool.put(b"one").unwrap(), 0);
        assert_eq!(spool.put(b"two").unwrap(), 0);
        let Next::Message(first) = spool.next() else { panic!("nothing there") };
        assert_eq!(spool.read(first).unwrap().unwrap(), b"one");
        spool.remove(first);
        drop(spool);
        std::fs::write(folder.path().join("0000000000000009.part"), "half").unwrap();
        let spool = Spool::open(folder.path(), 1000).unwrap();
        let Next::Message(second) = spool.next() else { panic!("nothing there") };
        assert_eq!(spool.read(second).unwrap().unwrap(), b"two");
        spool.remove(second);
        spool.put(b"three").unwrap();
        assert_eq!(spool.waiting(), 1);
        spool.close(Duration::ZERO);
        assert_eq!(spool.next(), Next::Closed, "it stays for the next time");
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 10).unwrap();
        assert_eq!(spool.put(b"aaaa").unwrap(), 0);
        assert_eq!(spool.put(b"bbbb").unwrap(), 0);
        assert_eq!(spool.put(b"cccc").unwrap(), 1);
        assert_eq!(spool.put(b"too long for it").unwrap(), 1);
        let Next::Message(number) = spool.next() else { panic!("nothing there") };
        assert_eq!(spool.read(number).unwrap().unwrap(), b"bbbb");
        assert_eq!((spool.dropped(), spool.waiting()), (2, 2));
    }
}

//! Keeps messages on disk, up to a limit, until the server accepts them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use host::files::Folder;
use host::user::User;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, geteuid};

/// The extension of a message's file.
const SUFFIX: &str = ".push";
/// The file that a running server locks.
const LOCK: &str = "lock";

/// Why a directory cannot be used as a spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It does not exist and cannot be created.
    #[error("cannot create the spool {}", .folder.display())]
    Make {
        /// The directory.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could change what is sent, or make root write elsewhere.
    #[error(
        "the spool {} is not safe: {why}; fix: chown {owner} {} && chmod 0700 {}",
        .folder.display(), .folder.display(), .folder.display()
    )]
    NotPrivate {
        /// The directory.
        folder: PathBuf,
        /// The reason.
        why: String,
        /// The number of the user who should own it.
        owner: Uid,
    },
    /// Nothing can be written there.
    #[error("cannot write to the spool {}", .folder.display())]
    Write {
        /// The directory.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another exoprof uses it.
    #[error(
        "the spool {} is in use by another exoprof; give another directory with --spool",
        .0.display()
    )]
    InUse(PathBuf),
    /// Its messages cannot be read.
    #[error("cannot read the spool {}", .folder.display())]
    Read {
        /// The directory.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A directory of messages, oldest first.
pub struct Spool {
    folder: Folder,
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Two servers must not send the same messages.
    lock: Flock<File>,
}

#[derive(Default)]
struct State {
    /// Number and size of each message.
    queue: VecDeque<(u64, u64)>,
    bytes: u64,
    next: u64,
    dropped: u64,
    /// No more messages come; the remaining ones may be sent until then.
    closing: Option<Instant>,
}

/// What the sender does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this message.
    Message(u64),
    /// End.
    Closed,
}

impl Spool {
    /// Opens the directory, creating it if needed, with the messages of earlier runs. It may belong
    /// to `user`, to whom the spool will be given.
    pub fn open(path: &Path, limit: u64, user: Option<Uid>) -> Result<Self, SpoolError> {
        let folder = private(path, user)?;
        let lock = folder
            .open_lock(Path::new(LOCK))
            .map_err(|source| SpoolError::Write { folder: path.into(), source })?;
        let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            return Err(SpoolError::InUse(path.into()));
        };
        let state = State::read(&folder)
            .map_err(|source| SpoolError::Read { folder: path.into(), source })?;
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Self { folder, limit, state, changed, lock })
    }

    /// Gives the spool to the user that the server switches to.
    pub fn give(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        nix::unistd::fchown(&*self.lock, Some(uid), Some(gid))?;
        self.folder.give(uid, gid)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. Returns how many messages were dropped unsent to make room.
    pub fn put(&self, message: &[u8]) -> io::Result<u64> {
        let size = message.len() as u64;
        if size > self.limit {
            self.state().dropped += 1;
            return Ok(1);
        }
        let number = {
            let mut state = self.state();
            state.next += 1;
            state.next - 1
        };
        // Written under another name first, so that a crash leaves no partial message.
        let mut file = self.folder.new_file()?;
        file.file().write_all(message)?;
        file.give_name(&name_of(number), true)?;
        let mut state = self.state();
        let mut gone = 0;
        while state.bytes + size > self.limit {
            let Some((oldest, size)) = state.queue.pop_front() else { break };
            state.bytes = state.bytes.saturating_sub(size);
            let _ = self.folder.remove(&name_of(oldest));
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
        let mut state = self.state();
        loop {
            let closed = state.closing.is_some_and(|until| Instant::now() >= until);
            match state.queue.front() {
                Some((number, _)) if !closed => return Next::Message(*number),
                _ if state.closing.is_some() => return Next::Closed,
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The bytes of a message; `None` if it was dropped for newer ones.
    pub fn read(&self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let file = match self.folder.open_file(&name_of(number)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        file.take(self.limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Removes a message that was sent or rejected.
    pub fn remove(&self, number: u64) {
        let mut state = self.state();
        if let Some(at) = state.queue.iter().position(|(n, _)| *n == number) {
            let size = state.queue.remove(at).map_or(0, |(_, size)| size);
            state.bytes = state.bytes.saturating_sub(size);
        }
        let _ = self.folder.remove(&name_of(number));
    }

    /// Waits for `time`, at most until the spool is closed.
    pub fn pause(&self, time: Duration) {
        let state = self.state();
        // Only closing the spool ends the wait early; new messages do not.
        let wait = self.changed.wait_timeout_while(state, time, |s| s.closing.is_none());
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Closes the spool to new messages. Others may be sent for `patience`; after that they stay
    /// until the next start.
    pub fn close(&self, patience: Duration) {
        self.state().closing = Some(Instant::now() + patience);
        self.changed.notify_all();
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.state().closing.is_some()
    }

    /// How many messages are in the spool.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// How many messages were dropped unsent because the spool was full.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }
}

/// Opens a directory, creating it if needed, that only we and `user` can change.
pub fn private(path: &Path, user: Option<Uid>) -> Result<Folder, SpoolError> {
    let folder = Folder::make(path, &User::own(), 0o700)
        .map_err(|source| SpoolError::Make { folder: path.into(), source })?;
    let own = geteuid();
    let owners: Vec<Uid> = std::iter::once(own).chain(user).collect();
    folder.check_private(&owners).map_err(|e| SpoolError::NotPrivate {
        folder: path.into(),
        why: e.to_string(),
        owner: user.unwrap_or(own),
    })?;
    Ok(folder)
}

fn name_of(number: u64) -> PathBuf {
    format!("{number:016}{SUFFIX}").into()
}

impl State {
    fn read(folder: &Folder) -> io::Result<Self> {
        let mut state = Self::default();
        let mut found = Vec::new();
        for name in folder.names()? {
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".part") {
                let _ = folder.remove(Path::new(name));
            }
            let Some(number) = name.strip_suffix(SUFFIX) else { continue };
            // Our names have 16 digits; other files are left alone.
            let Ok(number) = number.parse::<u64>() else { continue };
            // Links and pipes are none of ours either.
            let Ok(file) = folder.open_file(Path::new(name)) else { continue };
            found.push((number, file.metadata()?.len()));
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
    fn messages_survive_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1000, None).unwrap();
        assert!(Spool::open(folder.path(), 1000, None).is_err(), "it is in use");
        assert_eq!(spool.put(b"one").unwrap(), 0);
        assert_eq!(spool.put(b"two").unwrap(), 0);
        let Next::Message(first) = spool.next() else { panic!("the spool is empty") };
        assert_eq!(spool.read(first).unwrap().unwrap(), b"one");
        spool.remove(first);
        drop(spool);
        std::fs::write(folder.path().join("0000000000000009.part"), "half").unwrap();
        let spool = Spool::open(folder.path(), 1000, None).unwrap();
        let Next::Message(second) = spool.next() else { panic!("the spool is empty") };
        assert_eq!(spool.read(second).unwrap().unwrap(), b"two");
        spool.remove(second);
        spool.put(b"three").unwrap();
        assert_eq!(spool.waiting(), 1);
        spool.close(Duration::ZERO);
        assert_eq!(spool.next(), Next::Closed, "it stays until the next start");
    }

    #[test]
    fn the_oldest_are_dropped_when_full() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 10, None).unwrap();
        assert_eq!(spool.put(b"aaaa").unwrap(), 0);
        assert_eq!(spool.put(b"bbbb").unwrap(), 0);
        assert_eq!(spool.put(b"cccc").unwrap(), 1);
        assert_eq!(spool.put(b"too long for it").unwrap(), 1);
        let Next::Message(number) = spool.next() else { panic!("the spool is empty") };
        assert_eq!(spool.read(number).unwrap().unwrap(), b"bbbb");
        assert_eq!((spool.dropped(), spool.waiting()), (2, 2));
    }

    #[test]
    fn folders_of_others_are_rejected_and_links_are_not_followed() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let open = |user| Spool::open(folder.path(), 1000, user).map(drop);
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "root's").unwrap();
        symlink(&victim, folder.path().join("lock")).unwrap();
        assert!(matches!(open(None), Err(SpoolError::Write { .. })));
        assert_eq!(std::fs::read(&victim).unwrap(), b"root's");
        std::fs::remove_file(folder.path().join("lock")).unwrap();
        for mode in [0o777, 0o770, 0o1777] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path(), mode).unwrap();
            assert!(matches!(open(None), Err(SpoolError::NotPrivate { .. })));
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
        assert!(matches!(open(None), Err(SpoolError::NotPrivate { .. })));
        open(Some(Uid::from_raw(65534))).unwrap();
    }
}

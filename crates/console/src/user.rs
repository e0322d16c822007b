//! Finds the invoking user: under sudo not root, but the user who ran sudo.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

/// The user who owns the files that we write.
pub struct User {
    /// The home directory, if known.
    pub home: Option<PathBuf>,
    /// The new owner of files; `None` if they are ours anyway.
    owner: Option<(Uid, Option<Gid>)>,
}

impl User {
    /// The invoking user.
    pub fn invoking() -> Self {
        let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let by_sudo = nix::unistd::geteuid().is_root().then(|| id("SUDO_UID")).flatten();
        match by_sudo {
            Some(uid) => {
                let uid = Uid::from_raw(uid);
                let home = nix::unistd::User::from_uid(uid).ok().flatten().map(|u| u.dir);
                Self { home, owner: Some((uid, id("SUDO_GID").map(Gid::from_raw))) }
            }
            None => {
                let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
                Self { home, owner: None }
            }
        }
    }

    /// Makes the user the owner of a new file.
    pub fn give(&self, file: &std::fs::File) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => Ok(nix::unistd::fchown(file, Some(uid), gid)?),
            None => Ok(()),
        }
    }

    /// Creates a directory and its missing parents.
    pub fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.make_folder(above)?;
        }
        std::fs::DirBuilder::new().mode(0o755).create(folder)?;
        // Do not follow a symbolic link that somebody has put there meanwhile.
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let made = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
        self.give(&made)
    }
}

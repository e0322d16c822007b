//! The user on whose behalf we run: under sudo not root, but who called it.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

/// Who gets the files that are written.
pub struct User {
    /// The home folder, where it is known.
    pub home: Option<PathBuf>,
    /// Whom new files are given to; `None` where they are ours anyway.
    owner: Option<(Uid, Option<Gid>)>,
}

impl User {
    /// Who called us.
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

    /// Gives a new file to the user.
    pub fn give(&self, file: &std::fs::File) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => Ok(nix::unistd::fchown(file, Some(uid), gid)?),
            None => Ok(()),
        }
    }

    /// Makes a folder and those above it, as far as they are not there.
    pub fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(above) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.make_folder(above)?;
        }
        std::fs::DirBuilder::new().mode(0o755).create(folder)?;
        // Not through a link that someone put into its place.
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        let made = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
        self.give(&made)
    }
}

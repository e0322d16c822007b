//! Finds the invoking user (under sudo not root, but the user who ran sudo) and accesses files with
//! that user's rights.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// The user who owns the files that we write.
#[derive(Debug, Clone)]
pub struct User {
    /// The home directory, if known.
    pub home: Option<PathBuf>,
    /// Another user than ourselves.
    ids: Option<Ids>,
}

#[derive(Debug, Clone)]
struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<libc::gid_t>,
}

impl User {
    /// The invoking user.
    pub fn invoking() -> Self {
        let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let by_sudo = nix::unistd::geteuid().is_root().then(|| id("SUDO_UID")).flatten();
        let Some(uid) = by_sudo.map(Uid::from_raw) else {
            let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
            return Self { home, ids: None };
        };
        let known = nix::unistd::User::from_uid(uid).ok().flatten();
        // A user without an entry has the group of the same number on most systems.
        let gid = known.as_ref().map_or(uid.as_raw(), |user| user.gid.as_raw());
        let gid = Gid::from_raw(id("SUDO_GID").unwrap_or(gid));
        let name = known.as_ref().and_then(|user| CString::new(user.name.as_str()).ok());
        let groups = name.and_then(|name| nix::unistd::getgrouplist(&name, gid).ok());
        let groups = groups.unwrap_or_else(|| vec![gid]).iter().map(|g| g.as_raw()).collect();
        let ids = (!uid.is_root()).then_some(Ids { uid, gid, groups });
        Self { home: known.map(|user| user.dir), ids }
    }

    /// Whoever this process runs as.
    pub fn own() -> Self {
        Self { home: None, ids: None }
    }

    /// A user by numbers, without further groups.
    pub fn of_ids(uid: u32, gid: u32) -> Self {
        let (uid, own) = (Uid::from_raw(uid), nix::unistd::geteuid());
        let ids = Ids { uid, gid: Gid::from_raw(gid), groups: vec![gid] };
        Self { home: None, ids: (uid != own).then_some(ids) }
    }

    /// Whether this is another user than the one this process runs as.
    pub fn is_other(&self) -> bool {
        self.ids.is_some()
    }

    /// Gives the calling thread the user's rights on files until the result is dropped.
    ///
    /// # Errors
    /// The rights to change the ids are missing.
    pub fn act(&self) -> io::Result<Acting> {
        let Some(ids) = &self.ids else { return Ok(Acting::nobody_else()) };
        let groups = nix::unistd::getgroups()?.iter().map(|g| g.as_raw()).collect();
        set_groups(&ids.groups)?;
        let before = (setfsuid_now(), setfsgid(ids.gid), groups);
        let acting = Acting { before: Some(before), thread: PhantomData };
        // The user last: the capabilities over files go with it.
        setfsuid(ids.uid);
        let no_id = u32::MAX;
        // An invalid id changes nothing and returns the current one.
        let is = (setfsuid(Uid::from_raw(no_id)), setfsgid(Gid::from_raw(no_id)));
        match is == (ids.uid, ids.gid) {
            true => Ok(acting),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    /// Makes the user the owner of a file that we have created.
    ///
    /// # Errors
    /// That of fchown(2).
    pub fn give(&self, file: impl std::os::fd::AsFd) -> io::Result<()> {
        match &self.ids {
            Some(ids) => Ok(nix::unistd::fchown(file, Some(ids.uid), Some(ids.gid))?),
            None => Ok(()),
        }
    }
}

fn setfsuid_now() -> Uid {
    setfsuid(Uid::from_raw(u32::MAX))
}

/// The calling thread's rights on files are a user's; dropping it restores its own.
pub struct Acting {
    before: Option<(Uid, Gid, Vec<libc::gid_t>)>,
    /// The ids are those of one thread.
    thread: PhantomData<*const ()>,
}

impl Acting {
    fn nobody_else() -> Self {
        Self { before: None, thread: PhantomData }
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let Some((uid, gid, groups)) = &self.before else { return };
        setfsuid(*uid);
        setfsgid(*gid);
        if let Err(e) = set_groups(groups) {
            // Fewer rights than before: what needs them fails with its own error.
            tracing::error!("cannot restore the groups of this thread: {e}");
        }
    }
}

/// Sets the supplementary groups of the calling thread only: libc's function changes all threads.
fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: the kernel reads `groups.len()` ids at the pointer, which the slice has.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn ids_are_those_of_the_user_and_are_restored() {
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("private");
        std::fs::write(&private, "root's").unwrap();
        let root_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&private, root_only).unwrap();
        let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let before = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = private.clone();
        let other = std::thread::spawn(move || wait.recv().map(|()| std::fs::read(other)));
        let acting = User::of_ids(65534, 65533).act().unwrap();
        let denied = std::fs::read(&private).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        let path = folder.path().join("theirs");
        std::fs::write(&path, "").unwrap();
        go.send(()).unwrap();
        assert!(other.join().unwrap().unwrap().is_ok(), "other threads keep their ids");
        drop(acting);
        let made = path.metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (65534, 65533));
        let ids = |text: &str| -> Vec<String> {
            let mut lines = text.lines();
            lines
                .by_ref()
                .filter(|l| ["Uid:", "Gid:", "Groups:", "CapEff:"].iter().any(|p| l.starts_with(p)))
                .map(|l| l.trim_end().to_owned())
                .collect()
        };
        let after = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(ids(&after), ids(&before));
        assert!(std::fs::read(&private).is_ok());
    }
}

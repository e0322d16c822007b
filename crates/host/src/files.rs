//! Opens, writes and replaces files that other users could tamper with, which root must not be
//! tricked by.
//!
//! A directory is opened once; everything else happens in it by its descriptor, so that exchanging
//! a directory or a link on the path has no effect later. The last component is never followed
//! through a link. Content is written under a new name, which the final name replaces in one step.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat,
    renameat2,
};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, linkat, unlinkat};

use crate::user::User;

/// `openat2` reports `EAGAIN` when a rename raced with it.
const MAX_TRIES: usize = 8;

/// What a name in a directory stands for, without following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A directory.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A socket.
    Socket,
    /// A pipe or device.
    Special,
}

/// An open directory.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// Whose rights are used in it.
    actor: User,
    /// Who owns new files.
    owner: User,
}

impl Folder {
    /// Opens a directory and uses it with the user's rights.
    ///
    /// # Errors
    /// That of openat2(2), as the user.
    pub fn open(path: &Path, user: &User) -> io::Result<Self> {
        let _acting = user.act()?;
        // The directory of another process' root is reached through such a link, if the user says so.
        let resolve = match path.starts_with("/proc") {
            true => ResolveFlag::empty(),
            false => ResolveFlag::RESOLVE_NO_MAGICLINKS,
        };
        let fd = open_folder(path, resolve)?;
        Ok(Self { fd, actor: user.clone(), owner: user.clone() })
    }

    /// Opens a directory, calls `try_in`, and if the user's rights are not enough for one of them,
    /// repeats it with ours. Then no link is followed: links could lead to a directory that the
    /// user did not name.
    ///
    /// # Errors
    /// Those of [`Self::open`] and of `try_in`.
    pub fn try_open<T>(
        path: &Path,
        user: &User,
        try_in: impl Fn(&Self) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let attempt = |folder: Self| try_in(&folder).map(|result| (folder, result));
        match Self::open(path, user).and_then(attempt) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && user.is_other() => {
                let strict = open_folder(path, ResolveFlag::RESOLVE_NO_SYMLINKS);
                let fd = strict.map_err(|_| e)?;
                attempt(Self { fd, actor: User::own(), owner: user.clone() })
            }
            result => result,
        }
    }

    /// Creates a directory and its missing parents with the user's rights, and opens it.
    ///
    /// # Errors
    /// Those of mkdir(2) and openat2(2), as the user.
    pub fn make(path: &Path, user: &User, mode: u32) -> io::Result<Self> {
        {
            let _acting = user.act()?;
            DirBuilder::new().recursive(true).mode(mode).create(path)?;
        }
        Self::open(path, user)
    }

    /// Creates a directory for the user: with the user's rights, or if those are not enough, with
    /// ours in a parent that is reached without links.
    ///
    /// # Errors
    /// Those of [`Self::make`].
    pub fn make_for(path: &Path, user: &User) -> io::Result<()> {
        let denied = match Self::make(path, user, 0o777) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && user.is_other() => e,
            made => return made.map(drop),
        };
        let Some(name) = path.file_name() else { return Err(denied) };
        let parent = open_folder(folder_of(path), ResolveFlag::RESOLVE_NO_SYMLINKS);
        let Ok(parent) = parent else { return Err(denied) };
        nix::sys::stat::mkdirat(&parent, name, Mode::from_bits_truncate(0o777))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        user.give(openat(&parent, name, flags, Mode::empty())?)
    }

    /// Fails unless the directory is owned by one of these users and only its owner may write to
    /// it.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] with the reason.
    pub fn check_private(&self, owners: &[Uid]) -> io::Result<()> {
        let stat = fstat(&self.fd)?;
        let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if !owners.contains(&Uid::from_raw(stat.st_uid)) {
            return denied(format!("it belongs to another user (uid {})", stat.st_uid));
        }
        if stat.st_mode & 0o022 != 0 {
            let mode = stat.st_mode & 0o7777;
            return denied(format!("other users may write to it (mode {mode:04o})"));
        }
        Ok(())
    }

    /// What the name stands for.
    ///
    /// # Errors
    /// That of fstatat(2), but for a missing file.
    pub fn find(&self, name: &Path) -> io::Result<Found> {
        let _acting = self.actor.act()?;
        let stat = match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            other => other?,
        };
        Ok(match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Found::Folder,
            SFlag::S_IFREG => Found::File,
            SFlag::S_IFLNK => Found::Link,
            SFlag::S_IFSOCK => Found::Socket,
            _ => Found::Special,
        })
    }

    /// Opens a pipe or device for writing; `None` for a pipe that nobody reads. Writes do not block.
    ///
    /// # Errors
    /// That of openat(2), or that it is another kind of file.
    pub fn open_special(&self, name: &Path) -> io::Result<Option<File>> {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match self.open_at(name, flags, 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) && self.is_pipe(name)? => {
                return Ok(None);
            }
            other => other?,
        };
        let metadata = file.metadata()?;
        if metadata.is_file() || metadata.is_dir() {
            return Err(io::Error::other("it was replaced by a file"));
        }
        Ok(Some(file))
    }

    fn is_pipe(&self, name: &Path) -> io::Result<bool> {
        let _acting = self.actor.act()?;
        let stat = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// That of openat(2), or that it is another kind of file.
    pub fn open_file(&self, name: &Path) -> io::Result<File> {
        // Opening a pipe must not block.
        regular(self.open_at(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?)
    }

    /// Opens a regular file to lock it, or creates it with mode 0600. Its content stays.
    ///
    /// # Errors
    /// That of openat(2), or that it is another kind of file.
    pub fn open_lock(&self, name: &Path) -> io::Result<File> {
        regular(self.open_at(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK, 0o600)?)
    }

    fn open_at(&self, name: &Path, flags: OFlag, mode: u32) -> io::Result<File> {
        let _acting = self.actor.act()?;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, name, flags, Mode::from_bits_truncate(mode))?.into())
    }

    /// Fails unless files can be created. Nothing remains of the attempt, also if we are killed.
    ///
    /// # Errors
    /// That of openat(2).
    pub fn check_writable(&self) -> io::Result<()> {
        match self.open_at(Path::new("."), OFlag::O_TMPFILE | OFlag::O_WRONLY, 0o600) {
            // The file system has no files without a name.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOENT)
                ) =>
            {
                self.new_file().map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Creates a file under a new name, with mode 0600. It is removed again unless it is given its
    /// final name.
    ///
    /// # Errors
    /// That of openat(2).
    pub fn new_file(&self) -> io::Result<NewFile<'_>> {
        loop {
            let name = PathBuf::from(format!(".exoprof.{:016x}.part", random()?));
            match self.create(&name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                file => return Ok(NewFile { folder: self, file: file?, name: Some(name) }),
            }
        }
    }

    /// Creates a file that must not exist, with mode 0600.
    ///
    /// # Errors
    /// That of openat(2).
    pub fn create(&self, name: &Path) -> io::Result<File> {
        let file = self.open_at(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, 0o600)?;
        if !self.actor.is_other() {
            self.owner.give(&file)?;
        }
        Ok(file)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// That of unlinkat(2).
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        let _acting = self.actor.act()?;
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// The names in it.
    ///
    /// # Errors
    /// That of reading it.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let _acting = self.actor.act()?;
        std::fs::read_dir(self.path_by_descriptor())?.map(|e| Ok(e?.file_name())).collect()
    }

    /// The bytes that can still be written, if the file system tells.
    pub fn free(&self) -> Option<u64> {
        let stat = nix::sys::statvfs::fstatvfs(&self.fd).ok()?;
        // Some blocks are reserved for root.
        let blocks = match nix::unistd::geteuid().is_root() {
            true => stat.blocks_free(),
            false => stat.blocks_available(),
        };
        (stat.blocks() > 0).then(|| blocks.saturating_mul(stat.fragment_size()))
    }

    /// Makes the user the owner.
    ///
    /// # Errors
    /// That of fchown(2).
    pub fn give(&self, uid: Uid, gid: nix::unistd::Gid) -> io::Result<()> {
        Ok(nix::unistd::fchownat(&self.fd, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?)
    }

    /// A path to the directory that only this process can use, for calls that know no descriptors.
    pub fn path_by_descriptor(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Lets a group connect to a socket that we have created: mode 0660.
    ///
    /// # Errors
    /// It is not a socket of ours, or its group or mode cannot be changed.
    pub fn open_socket_to(&self, name: &Path, group: nix::unistd::Gid) -> io::Result<()> {
        let file = self.open_at(name, OFlag::O_PATH, 0)?;
        let stat = fstat(&file)?;
        let is_socket = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
        if !is_socket || stat.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("it was replaced by another file"));
        }
        nix::unistd::fchownat(&file, "", None, Some(group), AtFlags::AT_EMPTY_PATH)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
        let mode = Mode::from_bits_truncate(0o660);
        Ok(nix::sys::stat::fchmodat(AT_FDCWD, path.as_str(), mode, follow)?)
    }
}

/// A file that has no final name yet.
#[derive(Debug)]
pub struct NewFile<'f> {
    folder: &'f Folder,
    file: File,
    /// The present name, to be removed.
    name: Option<PathBuf>,
}

impl NewFile<'_> {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A final name that nobody else uses, for content without a better one.
    pub fn unhidden(&self) -> PathBuf {
        let name = self.name.as_deref().and_then(Path::to_str).unwrap_or_default();
        name.trim_start_matches('.').replace(".part", ".pb.gz").into()
    }

    /// Sets the mode that an ordinary new file has.
    ///
    /// # Errors
    /// That of fchmod(2).
    pub fn make_ordinary(&self) -> io::Result<()> {
        let _acting = self.folder.actor.act()?;
        Ok(fchmod(&self.file, Mode::from_bits_truncate(0o666 & !own_umask()))?)
    }

    /// Gives the file its final name. Unless it may `replace`, an existing file is an error, after
    /// which another name can be tried.
    ///
    /// # Errors
    /// That of renameat2(2) or linkat(2).
    pub fn give_name(&mut self, to: &Path, replace: bool) -> io::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let (fd, _acting) = (&self.folder.fd, self.folder.actor.act()?);
        if replace {
            renameat(fd, name.as_path(), fd, to)?;
        } else {
            match renameat2(fd, name.as_path(), fd, to, RenameFlags::RENAME_NOREPLACE) {
                // Some file systems do not have the flag.
                Err(Errno::EINVAL | Errno::ENOSYS) => {
                    linkat(fd, name.as_path(), fd, to, AtFlags::empty())?;
                    return Ok(());
                }
                other => other?,
            }
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Nothing more can be done about it.
            let _ = self.folder.remove(name);
        }
    }
}

/// Reads a small file that the user names, such as a secret: a regular file or a pipe. Links are
/// followed (Kubernetes mounts secrets as links).
///
/// # Errors
/// It is another kind of file, larger than `max` bytes, everybody may write to it, or it cannot be
/// read.
pub fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = match descriptor_of(path) {
        Some(number) => duplicate(number)?,
        None => {
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let found: File = openat(AT_FDCWD, path, flags, Mode::empty())?.into();
            let metadata = found.metadata()?;
            let kind = SFlag::from_bits_truncate(metadata.mode()) & SFlag::S_IFMT;
            if kind != SFlag::S_IFREG && kind != SFlag::S_IFIFO {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            if metadata.is_file() && metadata.mode() & 0o002 != 0 {
                let why = format!("everybody may write to it; fix: chmod o-w {}", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            // The same file, whatever has happened to its path.
            File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?
        }
    };
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max {
        true => Err(io::Error::other(format!("larger than {max} bytes"))),
        false => Ok(bytes),
    }
}

/// The number of the open descriptor that a path such as `/dev/fd/63` or `/dev/stdout` names.
pub fn descriptor_of(path: &Path) -> Option<i32> {
    let text = path.to_str()?;
    match text {
        "/dev/stdin" => return Some(0),
        "/dev/stdout" => return Some(1),
        "/dev/stderr" => return Some(2),
        _ => {}
    }
    let number = ["/dev/fd/", "/proc/self/fd/"].iter().find_map(|p| text.strip_prefix(p))?;
    number.parse().ok().filter(|n| *n >= 0)
}

/// Another descriptor of an open file of this process.
///
/// # Errors
/// No descriptor with that number is open.
pub fn duplicate(number: i32) -> io::Result<File> {
    #[allow(unsafe_code)]
    // SAFETY: no memory is involved; a number that is not open is an error.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

/// The directory of a path; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// How directories are opened: only to reach what is in them.
const REACH: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn open_folder(path: &Path, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(REACH).resolve(resolve);
    let mut tries = 0;
    loop {
        match openat2(AT_FDCWD, path, how) {
            Err(Errno::EAGAIN) if tries < MAX_TRIES => tries += 1,
            // Kernels before 5.6, and container runtimes that filter the call.
            Err(Errno::ENOSYS | Errno::EPERM) => return open_folder_by_openat(path, resolve),
            result => return Ok(result?),
        }
    }
}

fn open_folder_by_openat(path: &Path, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    if !resolve.contains(ResolveFlag::RESOLVE_NO_SYMLINKS) {
        return Ok(openat(AT_FDCWD, path, REACH, Mode::empty())?);
    }
    let mut folder = openat(AT_FDCWD, ".", REACH, Mode::empty())?;
    for component in path.components() {
        // A link is no directory.
        let flags = REACH | OFlag::O_NOFOLLOW;
        folder = openat(&folder, component.as_os_str(), flags, Mode::empty())?;
    }
    Ok(folder)
}

fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Read from /proc: umask(2) would change it for a moment, for all threads.
fn own_umask() -> u32 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    #[allow(unsafe_code)]
    // SAFETY: the kernel writes at most 8 bytes to the array.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match n == 8 {
        true => Ok(u64::from_ne_bytes(bytes)),
        false => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const NOBODY: u32 = 65534;

    fn open(path: &Path) -> Folder {
        Folder::open(path, &User::own()).unwrap()
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "root's").unwrap();
        symlink(&victim, dir.path().join("link")).unwrap();
        let (folder, link) = (open(dir.path()), Path::new("link"));
        assert_eq!(folder.find(link).unwrap(), Found::Link);
        assert!(folder.open_file(link).is_err());
        assert!(folder.open_lock(link).is_err());
        assert!(folder.open_special(link).is_err());
        assert!(folder.create(link).is_err());
        let mut new = folder.new_file().unwrap();
        new.file().write_all(b"new").unwrap();
        assert!(new.give_name(link, false).is_err());
        new.give_name(link, true).unwrap();
        drop(new);
        assert_eq!(std::fs::read(&victim).unwrap(), b"root's");
        assert_eq!(folder.names().unwrap().len(), 2, "no other name is left");
    }

    #[test]
    fn whether_files_can_be_created_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode));
        open(dir.path()).check_writable().unwrap();
        mode(0o755).unwrap();
        let theirs = Folder::open(dir.path(), &User::of_ids(NOBODY, NOBODY)).unwrap();
        assert!(theirs.check_writable().is_err());
        mode(0o777).unwrap();
        theirs.check_writable().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// What is done without openat2.
    #[test]
    fn a_path_without_links_is_walked() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        symlink(dir.join("a"), dir.join("link")).unwrap();
        let strict = ResolveFlag::RESOLVE_NO_SYMLINKS;
        let number = |fd: OwnedFd| fstat(&fd).unwrap().st_ino;
        for path in [dir.join("a/b"), dir.join("a/./b/../b"), "/".into(), ".".into()] {
            let walked = number(open_folder_by_openat(&path, strict).unwrap());
            assert_eq!(walked, std::fs::metadata(&path).unwrap().ino(), "{}", path.display());
            assert_eq!(walked, number(open_folder(&path, strict).unwrap()));
        }
        for path in ["link", "link/b"].map(|name| dir.join(name)) {
            assert!(open_folder_by_openat(&path, strict).is_err(), "{}", path.display());
            let by_links = open_folder_by_openat(&path, ResolveFlag::RESOLVE_NO_MAGICLINKS);
            assert_eq!(number(by_links.unwrap()), std::fs::metadata(&path).unwrap().ino());
        }
        assert!(open_folder_by_openat(&dir.join("none"), strict).is_err());
    }

    #[test]
    fn an_exchanged_folder_has_no_effect() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("a"), dir.path().join("victim"));
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(&victim).unwrap();
        let folder = open(&path);
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        symlink(&victim, &path).unwrap();
        folder.new_file().unwrap().give_name(Path::new("x"), false).unwrap();
        assert!(dir.path().join("moved/x").exists() && !victim.join("x").exists());
    }

    #[test]
    fn a_pipe_without_a_reader_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let (folder, name) = (open(dir.path()), Path::new("pipe"));
        assert!(folder.open_special(name).unwrap().is_none());
        assert!(folder.open_file(name).is_err() && folder.open_lock(name).is_err());
        let _reader = openat(AT_FDCWD, &path, OFlag::O_NONBLOCK, Mode::empty()).unwrap();
        assert!(folder.open_special(name).unwrap().is_some());
    }

    #[test]
    fn foreign_and_open_folders_are_not_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path());
        let own = [nix::unistd::geteuid()];
        folder.check_private(&own).unwrap();
        for mode in [0o720, 0o702, 0o1777] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(folder.check_private(&own).is_err(), "{mode:o}");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        folder.give(Uid::from_raw(NOBODY), nix::unistd::Gid::from_raw(NOBODY)).unwrap();
        assert!(folder.check_private(&own).is_err());
    }

    /// The user's link leads to a directory that only root may write to.
    #[test]
    fn a_users_links_lead_only_where_the_user_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let (home, secret) = (dir.path().join("home"), dir.path().join("secret"));
        let user = User::of_ids(NOBODY, NOBODY);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(&home).unwrap();
        std::fs::create_dir(&secret).unwrap();
        open(&home).give(Uid::from_raw(NOBODY), nix::unistd::Gid::from_raw(NOBODY)).unwrap();
        symlink(&secret, home.join("link")).unwrap();
        assert!(Folder::make(&home.join("link/state"), &user, 0o700).is_err());
        assert!(Folder::make_for(&home.join("link/state"), &user).is_err());
        let probe = |folder: &Folder| folder.new_file().map(drop);
        assert!(Folder::try_open(&home.join("link"), &user, probe).is_err());
        assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
        // Without links, root's directory is what the caller named.
        let (folder, ()) = Folder::try_open(&secret, &user, probe).unwrap();
        let file = folder.create(Path::new("x")).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), NOBODY);
        let made = Folder::make(&home.join("a/b"), &user, 0o700).unwrap();
        assert_eq!(fstat(&made.fd).unwrap().st_uid, NOBODY);
        let file = made.create(Path::new("x")).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), NOBODY);
    }

    #[test]
    fn secrets_that_everybody_may_write_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "secret").unwrap();
        assert_eq!(read_small(&path, 6).unwrap(), b"secret");
        assert!(read_small(&path, 5).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o646)).unwrap();
        assert!(read_small(&path, 6).is_err());
        assert!(
            read_small(dir.path(), 6).is_err() && read_small(Path::new("/dev/zero"), 6).is_err()
        );
    }
}

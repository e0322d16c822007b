//! Opens the file behind a mapping of a process that may be hostile.
//!
//! Its paths can be symbolic links out of its container, its files FIFOs or devices that block or
//! act when they are opened. So every candidate is first opened with `O_PATH`, which has no effect,
//! then checked, and only then opened for reading, through the same descriptor.
//!
//! A file system in user space could still answer slowly, but the kernel denies us those of other
//! users (fuse(4): no access without `allow_other`, and none across user namespaces).

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use image::{FileId, ImageAbsence};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, minor};

use crate::procdir::c_path;
use crate::{MapRow, Process};

/// No linker writes larger files.
const MAX_FILE_SIZE: u64 = 16 << 30;
/// `openat2` reports `EAGAIN` when a rename raced with it.
const MAX_TRIES: usize = 8;
/// Rows of maps that we read to find [`Aliases`] in total: about two seconds' worth.
const MAX_ROWS_READ: usize = 4 << 20;

/// Identifies a file and its state, by our own `fstat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// How a file was reached, which decides how its identity is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// By the kernel's link to the file that is mapped there now.
    Mapping,
    /// By a link or path in the process' own root: the inode must agree, and the device too unless
    /// the file system shows several (btrfs subvolumes, overlayfs).
    Path,
    /// By a path in another process' root: device and inode must agree.
    OtherRoot,
}

/// The root directory of a process, kept so that files can still be looked up after its exit.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// Where we see the root of a chroot. The kernel gives the paths of its mappings as we see them.
    seen_at: Option<PathBuf>,
}

impl Root {
    /// The root directory of a process that still runs.
    ///
    /// # Errors
    /// The error of opening `/proc/PID/root`: the process is gone, or we lack the permission.
    pub fn of(process: &Process) -> io::Result<Self> {
        let fd = process.dir.open_path("root")?;
        let seen_at = process.dir.read_link("root").ok().map(PathBuf::from);
        Ok(Self { fd, seen_at: seen_at.filter(|p| p.is_absolute() && p.parent().is_some()) })
    }

    /// Opens a regular file for reading, by the path that the process would use or, for a chroot, by
    /// the path that we would. Symbolic links are followed as for the process, never out of its root.
    ///
    /// # Errors
    /// The error of opening it, or one for anything but a regular file.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let fd = self.find(path)?;
        let stat = nix::sys::stat::fstat(&fd)?;
        reopen(&fd, &stat).map(|(file, _)| file)
    }

    fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        open_in_root(self, path.as_os_str().as_bytes()).or_else(|e| {
            let below = self.seen_at.as_ref().and_then(|at| path.strip_prefix(at).ok());
            open_in_root(self, below.ok_or(e)?.as_os_str().as_bytes())
        })
    }

    fn find_row(&self, row: &MapRow) -> io::Result<OwnedFd> {
        self.find(Path::new(std::ffi::OsStr::from_bytes(&row.path)))
    }

    /// Our own root directory.
    ///
    /// # Errors
    /// The error of opening `/`.
    pub fn own() -> io::Result<Self> {
        let fd = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { fd, seen_at: None })
    }
}

/// Opens the file behind a mapping of the process, whatever kind of file it is.
///
/// # Errors
/// Why it cannot be opened, or that the path leads to another file by now.
pub fn open_mapped(process: &Process, row: &MapRow) -> Result<File, ImageAbsence> {
    open_row(Some(process), &[], row, &mut Aliases::default()).map(|(file, _)| file)
}

/// Opens the file of a row: by the mapping's link, else by the path in the process' root, else by its
/// `exe` link, else by the path in one of `other_roots`.
pub(crate) fn open_row(
    process: Option<&Process>,
    other_roots: &[Root],
    row: &MapRow,
    aliases: &mut Aliases,
) -> Result<(File, Stamp), ImageAbsence> {
    let mut lookup = Lookup { row, replaced: false, unchecked: false, failure: None };
    if let Some(process) = process {
        let tid = process.memory_thread();
        let link = format!("map_files/{:x}-{:x}", row.start.0, row.end.0);
        let by_mapping = || process.open_memory_dir(tid).and_then(|dir| dir.open_path(&link));
        let accepted = |stat: &FileStat| aliases.accepts(process, row, stat);
        if let Some(found) = lookup.try_open(Route::Mapping, by_mapping, accepted) {
            return Ok(found);
        }
        // Only the failure of the path is reported.
        lookup.failure = None;
        let by_path = || Root::of(process).and_then(|root| root.find_row(row));
        if let Some(found) = lookup.try_open(Route::Path, by_path, reject) {
            return Ok(found);
        }
        let failure = lookup.failure.take();
        if row.deleted || failure.is_some() || lookup.replaced {
            // `exe` is the right file only for the program's own rows.
            let replaced = lookup.replaced;
            let by_exe = || process.dir.open_path("exe");
            if let Some(found) = lookup.try_open(Route::Path, by_exe, reject) {
                return Ok(found);
            }
            lookup.replaced = replaced;
        }
        lookup.failure = failure;
    } else {
        lookup.failure = Some(Errno::ESRCH.into());
    }
    for root in other_roots {
        let (failure, replaced) = (lookup.failure.take(), lookup.replaced);
        let by_path = || root.find_row(row);
        if let Some(found) = lookup.try_open(Route::OtherRoot, by_path, reject) {
            return Ok(found);
        }
        (lookup.failure, lookup.replaced) = (failure, replaced);
    }
    Err(lookup.absence())
}

/// Caches files whose device or inode differs between maps and `fstat` (overlayfs before Linux 6.8,
/// btrfs).
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    /// The identity in maps; device and inode by our own `fstat`.
    known: HashSet<(FileId, u64, u64)>,
    /// Rows of maps that were read to find them.
    rows: usize,
}

impl Aliases {
    /// Whether the link of a row's range leads to the row's file. `None` if finding out would take too
    /// long: a process can map a hundred thousand files, and all its rows are read for each new one.
    ///
    /// The mapping of an event may have been replaced since. So the row must still be in the process'
    /// map; then the file is accepted for other rows too.
    fn accepts(&mut self, process: &Process, row: &MapRow, stat: &FileStat) -> Option<bool> {
        let alias = (row.file, stat.st_dev, stat.st_ino);
        if self.known.contains(&alias) {
            return Some(true);
        }
        if self.rows >= MAX_ROWS_READ {
            return None;
        }
        let maps = process.exec_maps().unwrap_or_default();
        self.rows += maps.read + 1;
        let same = |r: &MapRow| (r.start, r.end, r.file) == (row.start, row.end, row.file);
        let found = maps.rows.iter().any(same);
        if found {
            self.known.insert(alias);
        }
        Some(found)
    }
}

/// Used where the device and inode must match exactly.
fn reject(_: &FileStat) -> Option<bool> {
    Some(false)
}

struct Lookup<'a> {
    row: &'a MapRow,
    replaced: bool,
    /// It is unknown whether the mapping's link leads to the right file.
    unchecked: bool,
    failure: Option<io::Error>,
}

impl Lookup<'_> {
    fn try_open(
        &mut self,
        route: Route,
        open: impl FnOnce() -> io::Result<OwnedFd>,
        accepted: impl FnOnce(&FileStat) -> Option<bool>,
    ) -> Option<(File, Stamp)> {
        let result = open().and_then(|fd| {
            let stat = nix::sys::stat::fstat(&fd)?;
            // Identity comes first: the path may lead to something else than a file by now.
            if !self.agrees(&stat, route) {
                let accepted = accepted(&stat);
                self.unchecked |= accepted.is_none();
                if accepted != Some(true) {
                    return Ok(None);
                }
            }
            reopen(&fd, &stat).map(Some)
        });
        match result {
            Ok(Some(found)) => return Some(found),
            Ok(None) => self.replaced = true,
            Err(e) => self.failure = Some(e),
        }
        None
    }

    fn agrees(&self, stat: &FileStat, route: Route) -> bool {
        let id = self.row.file;
        let same_device =
            (major(stat.st_dev), minor(stat.st_dev)) == (id.major.into(), id.minor.into());
        // Those file systems use devices without hardware, of major number 0.
        let several_devices = major(stat.st_dev) == 0 || id.major == 0;
        stat.st_ino == id.inode && (same_device || (route == Route::Path && several_devices))
    }

    fn absence(self) -> ImageAbsence {
        if self.unchecked {
            let text = "too many files on a file system that shows a different inode in maps";
            return ImageAbsence::Unopened(text.into());
        }
        if self.replaced {
            return ImageAbsence::Replaced;
        }
        let missing = |e: &io::Error| e.raw_os_error() == Some(libc::ENOENT);
        match self.failure {
            Some(e) if self.row.deleted && missing(&e) => {
                let text = "deleted, and opening the mapped file requires CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN";
                ImageAbsence::Unopened(text.into())
            }
            Some(e) => ImageAbsence::Unopened(e.to_string().into()),
            None => ImageAbsence::Unopened("no path leads to the file".into()),
        }
    }
}

/// Opens the file of an `O_PATH` descriptor for reading if it is a regular one.
fn reopen(fd: &OwnedFd, stat: &FileStat) -> io::Result<(File, Stamp)> {
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(io::Error::other("not a regular file"));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > MAX_FILE_SIZE {
        return Err(io::Error::other("file larger than 16 GiB"));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = File::from(open(path.as_str(), flags, Mode::empty())?);
    let stamp = Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size,
        modified: (stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok((file, stamp))
}

/// Resolves an absolute path as a process with that root would, symbolic links included.
fn open_in_root(root: &Root, path: &[u8]) -> io::Result<OwnedFd> {
    let path = c_path(path).ok_or(io::ErrorKind::InvalidInput)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..MAX_TRIES {
        match openat2(&root.fd, path.as_c_str(), how) {
            Err(Errno::EAGAIN) => {}
            // Kernels before 5.6, and container runtimes that filter the call.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                return walk(
                    root.fd.as_fd(),
                    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())),
                );
            }
            other => return Ok(other?),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Walks down a path one name at a time without following symbolic links. It finds less than
/// `openat2`, but never leaves the root.
fn walk(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut at = root.try_clone_to_owned()?;
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name,
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::EXDEV.into()),
        };
        // Before the step: O_PATH with O_NOFOLLOW would give the link itself.
        let stat = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
            return Err(Errno::ELOOP.into());
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn inode(fd: &OwnedFd) -> u64 {
        nix::sys::stat::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn links_stay_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root_path = dir.path().join("root");
        std::fs::create_dir(&root_path).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(root_path.join("secret"), "inside").unwrap();
        symlink("../secret", root_path.join("up")).unwrap();
        symlink("/secret", root_path.join("absolute")).unwrap();
        symlink(dir.path().join("secret"), root_path.join("host")).unwrap();
        symlink("/", root_path.join("top")).unwrap();
        let fd = open(&root_path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        let root = Root { fd, seen_at: Some(root_path.clone()) };
        let inside = std::fs::metadata(root_path.join("secret")).unwrap().ino();
        for path in [&b"/secret"[..], b"/up", b"/absolute", b"/../../secret", b"/top/../up"] {
            let found = open_in_root(&root, path).map(|fd| inode(&fd));
            assert_eq!(found.ok(), Some(inside), "{}", path.escape_ascii());
        }
        let host = open_in_root(&root, b"/host").unwrap_err();
        assert_eq!(host.raw_os_error(), Some(libc::ENOENT));
        // As we see a chroot, and no way out of it either.
        assert!(root.open_file(&root_path.join("secret")).is_ok());
        assert!(root.open_file(&dir.path().join("secret")).is_err());
        assert!(root.open_file(&root_path.join("host")).is_err());
        // The fallback for old kernels follows no link and no `..`.
        let walked = |path: &str| walk(root.fd.as_fd(), Path::new(path)).map(|fd| inode(&fd));
        assert_eq!(walked("/secret").unwrap(), inside);
        assert_eq!(walked("/up").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(walked("/top/secret").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(walked("/../secret").unwrap_err().raw_os_error(), Some(libc::EXDEV));
    }

    #[test]
    fn a_file_with_other_numbers_is_looked_for_in_the_map_once() {
        let process = Process::open(std::process::id().cast_signed()).unwrap();
        let rows = process.exec_maps().unwrap().rows;
        let row = rows.iter().find(|r| r.file_id().is_some()).unwrap();
        let mut stat = nix::sys::stat::stat("/").unwrap();
        let mut aliases = Aliases::default();
        assert_eq!(aliases.accepts(&process, row, &stat), Some(true));
        let read = aliases.rows;
        assert!(read > rows.len(), "{read}");
        let elsewhere = MapRow { start: image::Avma(0x1000), ..row.clone() };
        assert_eq!(aliases.accepts(&process, &elsewhere, &stat), Some(true), "the same file");
        assert_eq!(aliases.rows, read);
        // A different file: the row must be looked up again.
        stat.st_ino += 1;
        assert_eq!(aliases.accepts(&process, &elsewhere, &stat), Some(false));
        assert!(aliases.rows > read);
        aliases.rows = MAX_ROWS_READ;
        assert_eq!(aliases.accepts(&process, row, &stat), None, "the time for it is used up");
    }
}

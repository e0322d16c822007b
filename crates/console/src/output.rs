//! Writes profiles: checks the path before recording, and never leaves an incomplete file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::files::{Folder, Found, NewFile, descriptor_of, duplicate, folder_of};
use host::user::User;

use crate::special::Special;

/// Numbers to try for a free file name in a directory.
const MAX_NUMBER: u32 = 99_999;

/// Below this, not even a small profile fits.
const TOO_LITTLE: u64 = 64 << 10;
/// Larger than almost all profiles.
const ENOUGH: u64 = 16 << 20;
/// How often a pipe is checked for a reader.
const RETRY: Duration = Duration::from_millis(50);

/// Why a profile cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The path is a directory.
    #[error("cannot write {}: it is a directory", .0.display())]
    IsFolder(PathBuf),
    /// The file exists.
    #[error("{} already exists; use --force to overwrite it", .0.display())]
    Exists(PathBuf),
    /// The directory does not exist.
    #[error("cannot write {}: the directory {} does not exist", .path.display(), .folder.display())]
    NoFolder {
        /// What was to be written.
        path: PathBuf,
        /// Where.
        folder: PathBuf,
    },
    /// No file can be created in the directory.
    #[error("cannot write {}: {why}", .path.display())]
    Folder {
        /// What was to be written.
        path: PathBuf,
        /// Without the path of the temporary file, which the user did not name.
        why: io::ErrorKind,
    },
    /// Writing failed.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full.
    #[error("cannot write {}: only {free} bytes are free on its file system", .path.display())]
    Full {
        /// What was to be written.
        path: PathBuf,
        /// The free space, in bytes.
        free: u64,
    },
    /// Writing failed, and the content is now elsewhere.
    #[error("{why}; it was saved as {} instead", .kept.display())]
    Kept {
        /// Why it is not at its place.
        why: String,
        /// Where it is.
        kept: PathBuf,
    },
    /// Writing to standard output failed.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// All numbers are in use.
    #[error("no free number for {stem}.NNN.pb.gz in {}", .folder.display())]
    NoNumber {
        /// The name up to the number.
        stem: String,
        /// The directory.
        folder: PathBuf,
    },
}

impl OutputError {
    fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Write { path: path.into(), source }
    }
}

/// A place for one file.
pub enum Output {
    /// Standard output.
    Stdout,
    /// A pipe or a device, which must not be replaced by a file. It stays open until it is written.
    Special(Special),
    /// A file, written under a temporary name and renamed when it is complete.
    File(Folder, FileName),
}

/// The final name of a file.
pub enum FileName {
    /// A path that the user gave.
    Named {
        /// The path.
        path: PathBuf,
        /// An existing file may be replaced.
        replace: bool,
    },
    /// `exoprof.COMM.PID.TYPE.NNN.pb.gz` in a directory, with the first free number NNN.
    Numbered {
        /// The directory.
        folder: PathBuf,
        /// The name up to the number.
        stem: String,
    },
}

impl FileName {
    fn folder(&self) -> &Path {
        match self {
            Self::Named { path, .. } => folder_of(path),
            Self::Numbered { folder, .. } => folder,
        }
    }

    /// What error messages name.
    fn shown(&self) -> &Path {
        match self {
            Self::Named { path, .. } => path,
            Self::Numbered { folder, .. } => folder,
        }
    }
}

impl Output {
    /// Prepares a place, and fails here if it cannot be written. Waits until a pipe has a reader.
    /// Nothing is opened by its path again afterwards.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn prepare(place: FileName) -> Result<Self, OutputError> {
        if let FileName::Named { path, .. } = &place {
            if path == Path::new("-") {
                return Ok(Self::Stdout);
            }
            match descriptor_of(path) {
                Some(1) => return Ok(Self::Stdout),
                Some(number) => {
                    let file = duplicate(number).map_err(OutputError::write(path))?;
                    return Ok(Self::Special(Special { path: path.clone(), file }));
                }
                None => {}
            }
        }
        let opened =
            Folder::try_open(place.folder(), &User::invoking(), |folder| attempt(folder, &place));
        let (folder, attempt) = opened.map_err(|e| folder_error(&place, &e))?;
        match attempt {
            Attempt::Writable => {
                if let Some(free) = folder.free().filter(|free| *free < TOO_LITTLE) {
                    return Err(OutputError::Full { path: place.shown().into(), free });
                }
                Ok(Self::File(folder, place))
            }
            Attempt::Special(file) => {
                let path = place.shown();
                let special = Special::wait(file, &folder, path, RETRY);
                Ok(Self::Special(special.map_err(OutputError::write(path))?))
            }
            Attempt::IsFolder => Err(OutputError::IsFolder(place.shown().into())),
            Attempt::Exists => Err(OutputError::Exists(place.shown().into())),
        }
    }

    /// A warning if little space is left for the file.
    pub fn warning(&self) -> Option<String> {
        let Self::File(folder, place) = self else { return None };
        let free = folder.free().filter(|free| *free < ENOUGH)?;
        Some(format!(
            "only {} KiB are free for {}; a large profile may not fit",
            free / 1024,
            place.shown().display()
        ))
    }

    /// Writes the content, renames the file to its final name and returns that.
    ///
    /// # Errors
    /// Why it was not written.
    pub fn write(
        self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<PathBuf>, OutputError> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                write(&mut out).and_then(|()| out.flush()).map_err(OutputError::Stdout)?;
                Ok(None)
            }
            Self::Special(mut special) => {
                special.write(write).map_err(OutputError::write(&special.path))?;
                Ok(Some(special.path))
            }
            Self::File(folder, place) => {
                let failed = OutputError::write(place.shown());
                let file = folder.new_file().map_err(failed)?;
                let written = write_file(&file, write).and_then(|()| file.make_ordinary());
                written.map_err(OutputError::write(place.shown()))?;
                give_name(file, place).map(Some)
            }
        }
    }

    /// Writes the content as [`Self::write`] does. If that fails, the content, which cannot be had
    /// again, is saved in a temporary directory or the home directory, with mode 0600.
    ///
    /// # Errors
    /// Why it is not at its place, and where it is instead.
    pub fn write_or_keep(
        self,
        write: impl Fn(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<PathBuf>, OutputError> {
        let failed = match self.write(&write) {
            Err(e) => e,
            written => return written,
        };
        // The reader of a pipe may leave when it has seen enough.
        let source = std::error::Error::source(&failed);
        let cause = source.and_then(|e| e.downcast_ref::<io::Error>());
        if cause.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return Err(failed);
        }
        let why = match cause {
            Some(cause) if cause.kind() == io::ErrorKind::StorageFull => {
                format!("{failed}: no space left on device")
            }
            Some(cause) => format!("{failed}: {cause}"),
            None => failed.to_string(),
        };
        match keep(&write) {
            Some(kept) => Err(OutputError::Kept { why, kept }),
            None => Err(failed),
        }
    }
}

/// Saves the content in the first directory where that is possible.
fn keep(write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> Option<PathBuf> {
    let user = User::invoking();
    let temporary = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    for folder in temporary.into_iter().chain(user.home.clone()) {
        let Ok(open) = Folder::open(&folder, &user) else { continue };
        let Ok(mut file) = open.new_file() else { continue };
        if write_file(&file, write).is_err() {
            continue;
        }
        let name = file.unhidden();
        if file.give_name(&name, false).is_ok() {
            return Some(folder.join(name));
        }
    }
    None
}

enum Attempt {
    Writable,
    /// Open, unless it is a pipe that nobody reads yet.
    Special(Option<File>),
    IsFolder,
    Exists,
}

/// Finds out what is to be written, and whether a file can be created.
fn attempt(folder: &Folder, place: &FileName) -> io::Result<Attempt> {
    if let FileName::Named { path, replace } = place {
        let Some(name) = path.file_name() else { return Ok(Attempt::IsFolder) };
        match folder.find(Path::new(name))? {
            Found::Folder => return Ok(Attempt::IsFolder),
            Found::Special | Found::Socket => {
                return folder.open_special(Path::new(name)).map(Attempt::Special);
            }
            Found::File | Found::Link if !replace => return Ok(Attempt::Exists),
            _ => {}
        }
    }
    folder.check_writable().map(|()| Attempt::Writable)
}

fn folder_error(place: &FileName, e: &io::Error) -> OutputError {
    let (path, folder) = (place.shown().into(), place.folder());
    match folder.exists() {
        true => OutputError::Folder { path, why: e.kind() },
        false => OutputError::NoFolder { path, folder: folder.into() },
    }
}

fn write_file(
    file: &NewFile<'_>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 18, file.file());
    write(&mut out)?;
    out.flush()
}

fn give_name(mut file: NewFile<'_>, place: FileName) -> Result<PathBuf, OutputError> {
    match place {
        FileName::Named { path, replace } => {
            let name = path.file_name().unwrap_or_default();
            file.give_name(Path::new(name), replace).map_err(OutputError::write(&path))?;
            Ok(path)
        }
        FileName::Numbered { folder, stem } => {
            for n in 1..=MAX_NUMBER {
                let name = format!("{stem}.{n:03}.pb.gz");
                match file.give_name(Path::new(&name), false) {
                    Ok(()) => return Ok(folder.join(name)),
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(e) => return Err(OutputError::write(&folder.join(name))(e)),
                }
            }
            Err(OutputError::NoNumber { stem, folder })
        }
    }
}

/// The part of a file name that identifies the process. A process must not be able to choose
/// another directory by its name.
pub fn stem(comm: &str, pid: i32, kind: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_+".contains(c) { c } else { '_' };
    let comm: String = comm.chars().map(safe).collect();
    format!("exoprof.{}.{pid}.{kind}", if comm.is_empty() { "_" } else { &comm })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"a profile")
    }

    #[test]
    fn a_process_name_cannot_leave_the_directory() {
        assert_eq!(stem("../../etc/x", 7, "cpu"), "exoprof.______etc_x.7.cpu");
        assert_eq!(stem("redis-server", 7, "cpu"), "exoprof.redis-server.7.cpu");
    }

    #[test]
    fn numbers_count_up_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let place =
            || FileName::Numbered { folder: folder.path().into(), stem: "exoprof.a.1.cpu".into() };
        for n in 1..=3 {
            let path = Output::prepare(place()).unwrap().write(content).unwrap().unwrap();
            assert_eq!(
                path.file_name().unwrap().to_str(),
                Some(&*format!("exoprof.a.1.cpu.00{n}.pb.gz"))
            );
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 3, "no temporary file is left");
    }

    #[test]
    fn a_device_is_not_replaced() {
        let place = |replace| FileName::Named { path: "/dev/full".into(), replace };
        for replace in [false, true] {
            let output = Output::prepare(place(replace)).unwrap();
            assert!(output.write(content).is_err());
            assert!(!Path::new("/dev/full").metadata().unwrap().is_file());
        }
    }

    #[test]
    fn content_that_cannot_be_written_is_kept() {
        let place = FileName::Named { path: "/dev/full".into(), replace: false };
        let failed = Output::prepare(place).unwrap().write_or_keep(content).unwrap_err();
        let OutputError::Kept { kept, .. } = &failed else { panic!("{failed}") };
        assert_eq!(std::fs::read(kept).unwrap(), b"a profile");
        let mode = std::os::unix::fs::PermissionsExt::mode(&kept.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(failed.to_string().contains("no space left on device"), "{failed}");
        std::fs::remove_file(kept).unwrap();
    }

    #[test]
    fn an_existing_file_needs_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.pb.gz");
        std::fs::write(&path, "mine").unwrap();
        let place = |replace| FileName::Named { path: path.clone(), replace };
        assert!(Output::prepare(place(false)).is_err());
        Output::prepare(place(true)).unwrap().write(content).unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), b"mine");
    }
}

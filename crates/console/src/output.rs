//! Writes profiles: checks the path before recording, and never leaves an incomplete file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

use crate::user::User;

/// Numbers to try for a free file name in a directory.
const MAX_NUMBER: u32 = 99_999;

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
    /// A pipe or a device, which must not be replaced by a file.
    Special(PathBuf),
    /// A file, written under a temporary name and renamed when it is complete.
    File(FileName),
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

impl Output {
    /// Prepares a place, and fails here if it cannot be written.
    pub fn prepare(place: FileName) -> Result<Self, OutputError> {
        if let FileName::Named { path, replace } = &place {
            if path == Path::new("-") {
                return Ok(Self::Stdout);
            }
            match path.symlink_metadata() {
                Ok(m) if m.is_dir() => return Err(OutputError::IsFolder(path.clone())),
                Ok(m) if !m.is_file() && !m.is_symlink() => {
                    return Ok(Self::Special(path.clone()));
                }
                Ok(_) if !replace => return Err(OutputError::Exists(path.clone())),
                _ => {}
            }
        }
        // Only a test: no temporary file must remain if we are killed while recording.
        beside(&place)?;
        Ok(Self::File(place))
    }

    /// Writes the content, renames the file to its final name and returns that.
    pub fn write(
        self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<PathBuf>, OutputError> {
        let place = match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                write(&mut out).and_then(|()| out.flush()).map_err(OutputError::Stdout)?;
                return Ok(None);
            }
            Self::Special(path) => {
                let out = File::options().write(true).open(&path);
                out.and_then(|mut out| write(&mut out)).map_err(OutputError::write(&path))?;
                return Ok(Some(path));
            }
            Self::File(place) => place,
        };
        let beside = beside(&place)?;
        write_beside(&beside, write).map_err(OutputError::write(beside.path()))?;
        give_name(beside, place).map(Some)
    }
}

/// Creates a temporary file in the directory of the place.
fn beside(place: &FileName) -> Result<NamedTempFile, OutputError> {
    let (folder, shown) = match place {
        FileName::Named { path, .. } => (folder_of(path), path.as_path()),
        FileName::Numbered { folder, .. } => (folder.as_path(), folder.as_path()),
    };
    tempfile::Builder::new().prefix(".exoprof.").suffix(".part").tempfile_in(folder).map_err(|e| {
        let path = shown.into();
        match folder.exists() {
            true => OutputError::Folder { path, why: e.kind() },
            false => OutputError::NoFolder { path, folder: folder.into() },
        }
    })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_beside(
    file: &NamedTempFile,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 18, file.as_file());
    write(&mut out)?;
    out.flush()?;
    hand_over(file.as_file())
}

/// Applies the invoking user's umask, and under sudo makes that user the owner.
fn hand_over(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // Temporary files have mode 0600, but a profile is an ordinary file.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    file.set_permissions(std::fs::Permissions::from_mode(0o666 & !mask.bits()))?;
    User::invoking().give(file)
}

fn give_name(mut beside: NamedTempFile, place: FileName) -> Result<PathBuf, OutputError> {
    let failed = |path: &Path, e: PersistError| OutputError::write(path)(e.error);
    match place {
        FileName::Named { path, replace: true } => {
            beside.persist(&path).map_err(|e| failed(&path, e))?;
            Ok(path)
        }
        FileName::Named { path, replace: false } => {
            beside.persist_noclobber(&path).map_err(|e| failed(&path, e))?;
            Ok(path)
        }
        FileName::Numbered { folder, stem } => {
            for n in 1..=MAX_NUMBER {
                let path = folder.join(format!("{stem}.{n:03}.pb.gz"));
                match beside.persist_noclobber(&path) {
                    Ok(_) => return Ok(path),
                    Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => beside = e.file,
                    Err(e) => return Err(failed(&path, e)),
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

//! Reads files of a `/proc/PID` directory through a descriptor of it. Once the process is gone every
//! read fails, so that a reused PID is never taken for the old process.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use procfs::process::Status;

/// `cmdline` may be large.
const MAX_SMALL_FILE: u64 = 1 << 20;

/// An open `/proc/PID` directory.
#[derive(Debug)]
pub(crate) struct ProcDir(OwnedFd);

impl AsFd for ProcDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ProcDir {
    /// Opens `/proc/PID`; a thread's id is accepted too, as the kernel does.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(format!("/proc/{pid}").as_str(), flags, Mode::empty())?))
    }

    /// A second descriptor of the same directory.
    pub(crate) fn reopen(other: &Self) -> io::Result<Self> {
        Ok(Self(other.0.try_clone()?))
    }

    /// Opens a file in it for reading.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Opens a file in it for reading and writing.
    pub(crate) fn open_for_writing(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Opens the file that a link leads to with `O_PATH`: without effects, even for a device.
    pub(crate) fn open_path(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::empty())?)
    }

    /// Reads a small file, at most 1 MiB of it.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.open_file(name)?.take(MAX_SMALL_FILE).read_to_end(&mut out)?;
        Ok(out)
    }

    /// Its `status` file.
    pub(crate) fn status(&self) -> io::Result<Status> {
        host::status::parse(&self.read("status")?)
    }

    /// The `status` file of a thread, which a long list of groups may make longer than a page.
    pub(crate) fn thread_status(&self, tid: i32) -> io::Result<Status> {
        host::status::parse(&self.read(&format!("task/{tid}/status"))?)
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self, name: &str) -> io::Result<std::ffi::OsString> {
        Ok(nix::fcntl::readlinkat(&self.0, name)?)
    }
}

/// Reads one file per thread without an allocation per thread.
#[derive(Debug, Default)]
pub(crate) struct ThreadFile {
    name: String,
    buffer: Vec<u8>,
}

impl ThreadFile {
    /// The first 4 KiB at most of `task/TID/FILE`.
    pub(crate) fn read(&mut self, dir: &ProcDir, tid: i32, file: &str) -> io::Result<&[u8]> {
        self.name.clear();
        let _ = write!(self.name, "task/{tid}/{file}");
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(dir.as_fd(), self.name.as_str(), flags, Mode::empty())?;
        self.buffer.resize(4096, 0);
        let n = loop {
            match nix::unistd::read(&fd, &mut self.buffer) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        Ok(&self.buffer[..n])
    }
}

/// A path for a system call; `None` with an inner NUL.
pub(crate) fn c_path(path: &[u8]) -> Option<CString> {
    CString::new(path).ok()
}

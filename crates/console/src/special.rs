//! Writes to pipes and devices without hanging in them: signals end the wait.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::files::Folder;
use nix::poll::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a full pipe is checked for a signal, in milliseconds.
const CHECK_MS: u16 = 100;

/// The least that a pipe that is ready for writing takes at once, in bytes (pipe(7)).
const PIPE_BUF: usize = 4096;

/// An open pipe or device.
pub struct Special {
    /// The path that the user gave.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
}

impl Special {
    /// Waits until a pipe that is not `open` yet has a reader. A signal ends the program as usual:
    /// nothing has been recorded.
    pub(crate) fn wait(
        mut open: Option<File>,
        folder: &Folder,
        path: &Path,
        retry: Duration,
    ) -> io::Result<Self> {
        let name = Path::new(path.file_name().unwrap_or_default());
        loop {
            if let Some(file) = open {
                return Ok(Self { path: path.into(), file });
            }
            std::thread::sleep(retry);
            open = folder.open_special(name)?;
        }
    }

    /// Writes the content. SIGINT, SIGTERM and SIGHUP end it if the reader does not read.
    pub(crate) fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut ids = Vec::new();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            ids.push(signal_hook::flag::register(signal, stopped.clone())?);
        }
        let mut out = io::BufWriter::new(Patient { file: &self.file, stopped: &stopped });
        let written = write(&mut out).and_then(|()| out.flush());
        // A buffer that could not be written must not be tried again.
        let _ = out.into_parts();
        for id in ids {
            signal_hook::low_level::unregister(id);
        }
        written
    }
}

/// Waits for a reader that is slow.
struct Patient<'s> {
    file: &'s File,
    stopped: &'s AtomicBool,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A pipe that is ready takes this much without blocking, also if it is a shell's descriptor,
        // whose flags are not ours to change.
        let bytes = &bytes[..bytes.len().min(PIPE_BUF)];
        loop {
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, CHECK_MS) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => match self.file.write(bytes) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                },
                Err(e) => return Err(e.into()),
            }
            if self.stopped.load(Ordering::Relaxed) {
                // `Interrupted` would be retried.
                return Err(io::Error::other("a signal ended the wait for the reader"));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell's pipe blocks; its reader does not read.
    #[test]
    fn a_signal_ends_the_wait_for_a_reader() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut special = Special { path: "pipe".into(), file };
        let (sender, began) = std::sync::mpsc::channel();
        let signal = std::thread::spawn(move || {
            began.recv().unwrap();
            std::thread::sleep(Duration::from_millis(300));
            signal_hook::low_level::raise(SIGTERM).unwrap();
        });
        let written = special.write(|out| {
            sender.send(()).unwrap();
            out.write_all(&vec![0; 1 << 20])
        });
        signal.join().unwrap();
        assert!(written.unwrap_err().to_string().contains("signal"));
    }
}

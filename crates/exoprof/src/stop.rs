//! Ctrl-C and SIGTERM end a recording; they do not end the program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Readable once a signal came. A second signal of the same kind ends the program as usual.
pub struct StopSignal(UnixStream);

impl StopSignal {
    /// Installs the handlers.
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

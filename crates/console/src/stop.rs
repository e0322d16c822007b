//! Turns Ctrl-C and SIGTERM into a readable file descriptor, so that they only end the recording.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

/// Readable after the first signal. A second one ends the program as usual: users who press Ctrl-C
/// twice do not want to wait for symbols.
pub struct StopSignal(UnixStream);

impl StopSignal {
    /// Installs the handlers.
    pub fn install() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Handlers run in this order, so the first signal finds the flag unset.
            flag::register_conditional_default(signal, came.clone())?;
            flag::register(signal, came.clone())?;
            pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }

    /// The stream that becomes readable, for use in an event loop.
    pub fn into_stream(self) -> io::Result<UnixStream> {
        self.0.set_nonblocking(true)?;
        Ok(self.0)
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

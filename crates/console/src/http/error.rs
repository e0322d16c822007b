//! Defines why a server cannot start or fails, the same for every command that has one.

use std::io;

use super::guard::TokenError;
use super::listen::ListenError;

/// Why an HTTP server cannot start, or why it failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The token file is invalid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Wait(#[source] io::Error),
    /// The threads of the server cannot be started.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
    /// Connections cannot be accepted.
    #[error("cannot accept connections")]
    Serve(#[source] io::Error),
}

//! Defines the errors of `view`.

use std::io;

use console::http::guard::TokenError;
use console::http::listen::ListenError;
use console::usage::UsageError;
use report::ReportError;

use crate::input::InputError;
use crate::source::SourceError;

/// Why a profile cannot be viewed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The options cannot be combined.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// The profile cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The first report failed.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Commands cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The address cannot be bound.
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
    /// The server cannot be started.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
    /// Connections cannot be accepted.
    #[error("cannot accept connections")]
    Serve(#[source] io::Error),
}

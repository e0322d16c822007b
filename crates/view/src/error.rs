//! Why a profile cannot be looked at.

use std::io;

use console::http::guard::TokenError;
use console::http::listen::ListenError;
use console::usage::UsageError;
use report::ReportError;

use crate::input::InputError;
use crate::source::SourceError;

/// Why a profile cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The options do not go together.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// The profile cannot be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The first report cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Commands cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no token in the file.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Wait(#[source] io::Error),
    /// The server cannot be started.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// Connections cannot be accepted.
    #[error("cannot serve")]
    Serve(#[source] io::Error),
}

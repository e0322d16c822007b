//! Defines the errors of `view`.

use console::http::HttpError;
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
    /// The HTTP server cannot start, or failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The profile cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The first report failed.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Commands cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
}

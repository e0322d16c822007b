//! Why there is no profile.

use std::collections::TryReserveError;
use std::io;
use std::path::PathBuf;

use pprof::DecodeError;
use report::CombineError;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("{}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// A URL gives nothing.
    #[error("{url}")]
    Url {
        /// The URL, without a password.
        url: String,
        /// Why.
        source: FetchError,
    },
    /// What was read is no profile.
    #[error("{name}")]
    NoProfile {
        /// The file or URL.
        name: String,
        /// Why.
        source: DecodeError,
    },
    /// So little gzip should not hold so much.
    #[error("{name}: {why}, too many for {kib} KiB of gzip; gunzip it first if you trust it")]
    TooDense {
        /// The file or URL.
        name: String,
        /// Which bound it meets.
        why: DecodeError,
        /// How much was read.
        kib: usize,
    },
    /// Profiles do not go together.
    #[error(transparent)]
    Combine(#[from] CombineError),
}

/// Why bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says why.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is no memory for them.
    #[error(transparent)]
    Memory(#[from] TryReserveError),
    /// There are too many.
    #[error("there are more than {} MiB", .0 >> 20)]
    TooLong(u64),
}

/// Why a server gives no profile.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It cannot be asked.
    #[error(transparent)]
    Request(#[from] ureq::Error),
    /// It says something else.
    #[error("{0}")]
    Refused(String),
    /// It breaks off.
    #[error("the answer was cut short")]
    CutShort(#[source] ReadError),
}

//! Defines why a profile cannot be read.

use std::collections::TryReserveError;
use std::io;
use std::path::PathBuf;

use pprof::DecodeError;
use report::CombineError;

/// Why a profile cannot be read.
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
    /// A URL cannot be fetched.
    #[error("{url}")]
    Url {
        /// The URL, without a password.
        url: String,
        /// Why.
        source: FetchError,
    },
    /// The data is not a profile.
    #[error("{name}")]
    NoProfile {
        /// The file or URL.
        name: String,
        /// Why.
        source: DecodeError,
    },
    /// The data expands suspiciously far.
    #[error(
        "{name}: {why}, suspicious for a gzip file of {kib} KiB; \
         fix: gunzip it first if you trust it"
    )]
    TooDense {
        /// The file or URL.
        name: String,
        /// Which limit it exceeds.
        why: DecodeError,
        /// How much was read.
        kib: usize,
    },
    /// The profiles cannot be merged.
    #[error(transparent)]
    Combine(#[from] CombineError),
}

/// Why data cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is not enough memory.
    #[error(transparent)]
    Memory(#[from] TryReserveError),
    /// It is too large.
    #[error("the file is larger than {} MiB", .0 >> 20)]
    TooLong(u64),
}

/// Why a server sent no profile.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] ureq::Error),
    /// The server answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The connection ended early.
    #[error("the response was cut short")]
    CutShort(#[source] ReadError),
}

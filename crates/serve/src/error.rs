//! Defines the errors of `serve`.

use std::io;
use std::path::PathBuf;

use console::http::HttpError;
use console::usage::UsageError;
use process::OpenError;
use tokio::task::JoinError;

use crate::privileges::PrivilegeError;
use crate::push::PushError;

/// Why the server cannot start, or why it failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The options cannot be combined.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// The HTTP server cannot start, or failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A process cannot be served.
    #[error(transparent)]
    Process(#[from] OpenError),
    /// The file of headers cannot be read.
    #[error("cannot read {}", .path.display())]
    Headers {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line in it is not a valid header.
    #[error("line {line} of {}: {why}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong, without the line's text, which may be secret.
        why: String,
    },
    /// Privileges cannot be dropped.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// Pushing cannot start.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Our own privileges cannot be read.
    #[error("cannot read /proc/self/status")]
    Rights(#[source] io::Error),
    /// A task of the server failed.
    #[error(transparent)]
    Task(#[from] JoinError),
    /// The task that pushes failed.
    #[error("cannot push profiles")]
    PushTask(#[source] JoinError),
}

//! Why there is no server, or why it ended.

use std::io;
use std::path::PathBuf;

use console::http::guard::TokenError;
use console::http::listen::ListenError;
use console::usage::UsageError;
use process::OpenError;
use tokio::task::JoinError;

use crate::privileges::PrivilegeError;
use crate::push::PushError;

/// Why there is no server, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The options do not go together.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// A process cannot be served.
    #[error(transparent)]
    Process(#[from] OpenError),
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no token in the file.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The file of headers cannot be read.
    #[error("cannot read {}", .path.display())]
    Headers {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line in it is no header.
    #[error("line {line} of {}: {why}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong, without what it holds.
        why: String,
    },
    /// Rights cannot be given up.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// Nothing can be pushed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Our own rights cannot be read.
    #[error("cannot read /proc/self/status")]
    Rights(#[source] io::Error),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Wait(#[source] io::Error),
    /// The threads of the server cannot be started.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// Connections cannot be accepted.
    #[error("cannot serve")]
    Serve(#[source] io::Error),
    /// A task of the server failed.
    #[error(transparent)]
    Task(#[from] JoinError),
    /// The task that pushes failed.
    #[error("cannot push")]
    PushTask(#[source] JoinError),
}

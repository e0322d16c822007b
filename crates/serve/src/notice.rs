//! Defines the events that a running server reports.

use std::fmt;
use std::sync::Arc;

/// An event of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The server accepts requests.
    Listening {
        /// A URL, or `unix:PATH`.
        address: String,
        /// The processes that are served.
        what: String,
    },
    /// An event of the pushed recordings.
    Push(String),
    /// An event of one of the servers that profiles are pushed to.
    PushTo {
        /// The server.
        url: String,
        /// What happened.
        what: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { address, what } => write!(f, "listening on {address}: {what}"),
            Self::Push(what) => write!(f, "push: {what}"),
            Self::PushTo { url, what } => write!(f, "push to {url}: {what}"),
        }
    }
}

/// Receives notices, from any thread.
pub type Notify = Arc<dyn Fn(Notice) + Send + Sync>;

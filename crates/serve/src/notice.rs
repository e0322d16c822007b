//! What is said while the server runs.

use std::fmt;
use std::sync::Arc;

/// Something that whoever started the server may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Requests are taken.
    Listening {
        /// A URL, or `unix:PATH`.
        address: String,
        /// The processes that are served.
        what: String,
    },
    /// Something about recordings that are pushed.
    Push(String),
    /// Something about one of the servers that profiles are pushed to.
    PushTo {
        /// The server.
        url: String,
        /// What it is.
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

/// Who is told, from any thread.
pub type Notify = Arc<dyn Fn(Notice) + Send + Sync>;

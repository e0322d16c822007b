//! How a command was used: wrongly, and how much it shall say.

/// The user asked for something that does not exist or does not go together: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// How much to say on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Results and warnings.
    Normal,
    /// What is done, too (`-v`).
    Verbose,
    /// And how (`-vv`).
    Debug,
}

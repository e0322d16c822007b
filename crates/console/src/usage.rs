//! Defines usage errors and verbosity.

/// The command line asks for something that does not exist or cannot be combined: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// How much to print on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Results and warnings.
    Normal,
    /// Also what is done (`-v`).
    Verbose,
    /// Also details (`-vv`).
    Debug,
}

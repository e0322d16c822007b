//! All threads of programs that are not Go, at one moment.

pub(crate) mod dump;
mod locks_held;
mod looks;
pub(crate) mod snapshot;
mod standing;
mod text;
pub(crate) mod waiting;

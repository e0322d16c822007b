//! Copies and dumps the stacks of all threads of native programs.

pub(crate) mod dump;
mod dumped;
mod locks_held;
mod no_stop;
pub(crate) mod snapshot;
mod text;
pub(crate) mod waiting;

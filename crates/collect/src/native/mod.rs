//! Kinds of programs that are not Go: what threads wait for, and who lets them wait.

pub(crate) mod block;
mod contentions;
mod fallback;
mod locks;
pub(crate) mod mutex;
mod switches;
mod waits;

//! Kinds of programs that are not Go: what threads wait for, and who lets them wait.

pub(crate) mod block;
mod contentions;
pub(crate) mod dump;
mod fallback;
mod followed;
pub(crate) mod joint;
mod locks;
mod locks_held;
mod looks;
pub(crate) mod mutex;
mod offspring;
mod programs;
mod snapshot;
mod switches;
mod text;
pub(crate) mod threadcreate;
pub(crate) mod ticked;
mod ticks;
mod waiting;
mod waits;

/// Whether stacks of threads can be copied without stopping them.
pub(crate) fn can_look() -> Result<(), host::rights::Obstacle> {
    snapshot::copier().map(drop)
}

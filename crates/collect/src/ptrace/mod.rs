//! Samples threads by wall-clock time without perf events: running threads are stopped briefly.

mod children;
mod followed;
mod sums;
pub(crate) mod ticked;
mod ticks;

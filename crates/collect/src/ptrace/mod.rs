//! Samples by the clock, without perf events: threads that run are stopped for a moment.

mod followed;
mod offspring;
mod sums;
pub(crate) mod ticked;
mod ticks;

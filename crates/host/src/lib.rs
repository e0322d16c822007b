//! Covers exoprof's own process on this machine: its rights, PID namespace and scheduling priority,
//! surviving mapped files that shrink, and the clock that Go's runtime reads.

#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod namespace;
mod priority;
pub mod rights;
pub mod sigbus;
pub mod status;
mod ticks;

pub use priority::{RealtimePriority, minimize_timer_slack};
pub use rights::{Obstacle, Rights, TargetRights, raise_nofile};
pub use ticks::Ticks;

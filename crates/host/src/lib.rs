//! Checks and manages exoprof's own process: permissions, PID namespace, scheduling priority,
//! SIGBUS handling for mapped files that shrink, and the tick counter that Go's runtime uses.

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

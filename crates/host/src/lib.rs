//! Checks and manages exoprof's own process: permissions, PID namespace, scheduling priority,
//! access to files that other users could tamper with, SIGBUS handling for mapped files that shrink,
//! and the tick counter that Go's runtime uses.

#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod files;
pub mod namespace;
mod priority;
pub mod rights;
pub mod sigbus;
pub mod status;
mod ticks;
pub mod user;

pub use priority::{RealtimePriority, minimize_timer_slack};
pub use rights::{Obstacle, Rights, TargetRights, raise_nofile};
pub use ticks::Ticks;

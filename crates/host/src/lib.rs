//! exoprof's own process on this machine: what it may do, how it is scheduled, how it survives
//! files that shrink while they are mapped, and the clock that a target's runtime reads.

pub mod namespace;
mod priority;
pub mod rights;
pub mod sigbus;
pub mod status;
mod ticks;

pub use priority::RealtimePriority;
pub use rights::{Obstacle, Rights, TargetRights, raise_nofile};
pub use ticks::Ticks;

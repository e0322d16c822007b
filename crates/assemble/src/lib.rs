//! Turns counted calling contexts into a profile with names.
//!
//! ```text
//!   contexts ─► symbols ─► conclude ─► builder ─► pprof
//!                 │           └─ comments: how it was recorded, what is missing
//!                 └─ debugfiles ─► debuginfod
//! ```

#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod builder;
pub mod comments;
pub mod conclude;
pub mod debugfiles;
pub mod debuginfod;
mod stats;
pub mod symbols;

pub use self::stats::Stats;

//! From counted calling contexts to a profile with names.
//!
//! ```text
//!   contexts ─► symbols ─► conclude ─► builder ─► pprof
//!                 │           └─ comments: what the profile says of itself
//!                 └─ debugfiles ─► debuginfod
//! ```

pub mod builder;
pub mod comments;
pub mod conclude;
pub mod debugfiles;
pub mod debuginfod;
mod outcome;
pub mod symbols;

pub use self::outcome::Stats;

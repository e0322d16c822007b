//! Reports over a profile.

pub mod top;

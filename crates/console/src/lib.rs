//! What exoprof's commands share: the terminal, signals, the invoking user, output files, and HTTP.

// They panic where nobody reads any more: see `terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod bytes;
pub mod duration;
pub mod http;
pub mod output;
pub mod stop;
pub mod terminal;
pub mod usage;
pub mod user;

//! Shares what exoprof's commands need: terminal output, signals, output files, HTTP.

// `print!` and `eprintln!` panic when the reader has closed the pipe: use `terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod bytes;
pub mod duration;
pub mod http;
pub mod output;
pub mod special;
pub mod stop;
pub mod terminal;
pub mod usage;

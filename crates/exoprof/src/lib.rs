//! The command line of exoprof: the binary runs it, and tests build it.

// `print!` and `eprintln!` panic when the reader has closed the pipe: use
// `console::terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod cli;
mod doctor;
mod dump;
mod export;
mod fetching;
mod kind_args;
mod logging;
mod processes;
mod progress;
mod record;
mod record_args;
mod report;
mod serve;
mod summary;
mod top;
mod view;

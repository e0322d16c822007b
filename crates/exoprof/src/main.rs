//! exoprof: pprof for any running process, from outside.

// They panic where nobody reads any more: see `console::terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod cli;
mod doctor;
mod dump;
mod export;
mod processes;
mod progress;
mod record;
mod record_args;
mod report;
mod summary;
mod top;

use std::process::ExitCode;

use clap::Parser as _;
use console::terminal::{in_one_line, say};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let quiet = cli.quiet;
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Also with --quiet: it silences all but errors.
            say!("exoprof: {}", in_one_line(&e));
            let usage = e.downcast_ref::<console::usage::UsageError>().is_some();
            if usage && !quiet {
                say!("for more: exoprof help");
            }
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

//! exoprof: pprof for any running process, from outside.

// They panic where nobody reads any more: see `terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod bytes;
mod cli;
mod doctor;
mod dump;
mod duration;
mod export;
mod http;
mod output;
mod progress;
mod record;
mod report;
mod serve;
mod source;
mod stop;
mod summary;
mod terminal;
mod top;
mod user;
mod view;

use std::process::ExitCode;

use clap::Parser as _;
use terminal::say;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let quiet = cli.quiet;
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Also with --quiet: it silences all but errors.
            say!("exoprof: {}", terminal::with_causes(&e));
            let usage = e.downcast_ref::<cli::UsageError>().is_some();
            if usage && !quiet {
                say!("for more: exoprof help");
            }
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

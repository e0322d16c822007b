//! exoprof: pprof for any running process, from outside.

// `print!` and `eprintln!` panic when the reader has closed the pipe: use
// `console::terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

use clap::Parser as _;
use console::terminal::{in_one_line, say};
use exoprof::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = cli.quiet;
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // --quiet does not silence errors.
            say!("error: {}", in_one_line(e.as_ref()));
            let usage = e.chain().any(|e| e.is::<console::usage::UsageError>());
            if usage && !quiet {
                say!("for more: exoprof help");
            }
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

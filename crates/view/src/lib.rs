//! Explores a profile in an interactive shell or on a web page: `exoprof view`.

// `print!` and `eprintln!` panic when the reader has closed the pipe: use
// `console::terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod commands;
mod completion;
mod error;
mod help;
mod input;
mod order;
mod settings;
mod shell;
pub mod source;
mod terminal;
mod web;

use clap::Args;
use console::usage::Verbosity;

pub use error::ViewError;
pub use terminal::{Terminal, WriteReport};

use source::{FetchProgress, SourceArgs};

/// Options of `view`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  exoprof view slow.pb.gz                        a shell: top10, list parse, peek parse, help
  exoprof view localhost:6060/debug/pprof/heap   the same for a profile of a running Go server
  exoprof view --diff-base old.pb.gz new.pb.gz   what changed
  exoprof view --http :8080 slow.pb.gz           a web page, for this machine only
  echo 'top10 -cum' | exoprof view slow.pb.gz    commands from a script")]
pub struct ViewArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    web: web::WebArgs,
}

/// Reads the profile and shows it in the shell or on a web page.
///
/// # Errors
/// The profile cannot be read or served. The shell prints a command's errors and continues.
pub fn run(
    args: &ViewArgs,
    verbosity: Verbosity,
    watcher: &mut dyn FetchProgress,
    terminal: &mut dyn Terminal,
) -> Result<(), ViewError> {
    if args.web.http.is_some() {
        // Check the address before fetching the profile.
        args.web.listen()?;
    }
    let profile = args.sources.read(watcher)?;
    if args.web.http.is_some() {
        return web::serve(profile, &args.web, |address| {
            if verbosity > Verbosity::Quiet {
                terminal.say(&format!("serving the profile at {address}/ (Ctrl-C to stop)"));
            }
        });
    }
    shell::run(&profile, verbosity > Verbosity::Quiet, terminal)
}

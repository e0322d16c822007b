//! `exoprof view`: a profile, looked at again and again.

// They panic where nobody reads any more: see `console::terminal::say`.
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

use source::{SourceArgs, Watcher};

/// Options of `view`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  exoprof view slow.pb.gz                        a shell: top10, list parse, peek parse, help
  exoprof view localhost:6060/debug/pprof/heap   the same, of a running Go server
  exoprof view --diff-base old.pb.gz new.pb.gz   what has changed
  exoprof view --http :8080 slow.pb.gz           as a web page, for this machine only
  echo 'top10 -cum' | exoprof view slow.pb.gz    commands from a script")]
pub struct ViewArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    web: web::WebArgs,
}

/// Reads the profile and lets the user look at it, in the shell or on a page.
///
/// # Errors
/// What cannot be read or served. What goes wrong with a command is shown, and the shell goes on.
pub fn run(
    args: &ViewArgs,
    verbosity: Verbosity,
    watcher: &mut dyn Watcher,
    terminal: &mut dyn Terminal,
) -> Result<(), ViewError> {
    if args.web.http.is_some() {
        // What cannot be served is found out before anything is fetched.
        args.web.listen()?;
    }
    let profile = args.sources.read(watcher)?;
    if args.web.http.is_some() {
        return web::serve(profile, &args.web, |address| {
            if verbosity > Verbosity::Quiet {
                terminal.say(&format!("serving the profile on {address}/ (Ctrl-C ends it)"));
            }
        });
    }
    shell::run(&profile, verbosity > Verbosity::Quiet, terminal)
}

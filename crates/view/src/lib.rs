//! `exoprof view`: a profile, looked at again and again.

// They panic where nobody reads any more: see `console::terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod commands;
mod completion;
mod help;
mod input;
mod order;
mod settings;
mod shell;
pub mod source;
mod web;

use clap::Args;
use console::usage::Verbosity;

use source::SourceArgs;

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

/// Runs the command.
pub fn run(args: &ViewArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    if args.web.http.is_some() {
        // What cannot be served is found out before anything is fetched.
        args.web.listen()?;
    }
    let profile = args.sources.read(verbosity)?;
    if args.web.http.is_some() {
        return web::serve(profile, &args.web, verbosity);
    }
    shell::run(&profile, verbosity)
}

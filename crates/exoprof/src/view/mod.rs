//! `exoprof view`: a profile, looked at again and again.

mod commands;
mod completion;
mod help;
mod input;
mod order;
mod settings;
mod shell;

use clap::Args;

use crate::cli::Verbosity;
use crate::source::SourceArgs;

/// Options of `view`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  exoprof view slow.pb.gz                        a shell: top10, list parse, peek parse, help
  exoprof view localhost:6060/debug/pprof/heap   the same, of a running Go server
  exoprof view --diff-base old.pb.gz new.pb.gz   what has changed
  echo 'top10 -cum' | exoprof view slow.pb.gz    commands from a script")]
pub struct ViewArgs {
    #[command(flatten)]
    sources: SourceArgs,
}

/// Runs the command.
pub fn run(args: &ViewArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    let profile = args.sources.read(verbosity)?;
    shell::run(&profile, verbosity)
}

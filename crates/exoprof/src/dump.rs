//! Runs `exoprof dump`: prints all current stacks.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use collect::RecordOptions;
use console::output::{FileName, Output};
use console::terminal::{say, to_stdout};
use console::usage::Verbosity;
use process::Process;

use crate::processes::command_line;

/// Options of `dump`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo exoprof dump -p 1234                       print every thread's stack
  sudo exoprof dump -p 1234 --group               merge equal stacks and count them
  sudo exoprof dump -p 1234 --pprof stacks.pb.gz  also write a goroutine profile
  sudo exoprof dump -p 1234 --no-stop             never stop a thread")]
pub struct DumpArgs {
    /// Dump this process
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: i32,
    /// Also write the goroutine profile to this file
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,
    /// Merge equal stacks and print how many there are
    #[arg(long)]
    pub group: bool,
    /// Never stop a thread. Each stack is from a moment when its thread was blocked; threads that
    /// never sleep are listed by name
    #[arg(long)]
    pub no_stop: bool,
    /// Overwrite an existing --pprof file
    #[arg(long)]
    pub force: bool,
}

/// Runs the command.
pub fn run(args: &DumpArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    let process = Arc::new(Process::open(args.pid)?);
    let place = |path: &PathBuf| FileName::Named { path: path.clone(), replace: args.force };
    let output = args.pprof.as_ref().map(|path| Output::prepare(place(path))).transpose()?;
    let options = RecordOptions {
        no_stop: args.no_stop,
        command_line: command_line(),
        ..RecordOptions::default()
    };
    let dump = collect::dump::of(&process, &options)?;
    let text = if args.group { &dump.grouped } else { &dump.text };
    to_stdout(text).context("cannot write to stdout")?;
    let path = output
        .map(|output| output.write_or_keep(|out| pprof::write_gz(&dump.profile, out)))
        .transpose()?
        .flatten();
    if verbosity > Verbosity::Quiet {
        if let Some(path) = path {
            say!("wrote {}", path.display());
        }
        for (reason, n) in &dump.stats.samples.broken {
            let stacks = if *n == 1 { "stack is" } else { "stacks are" };
            say!("warning: {n} {stacks} incomplete: {reason}");
        }
        for note in &dump.stats.notes {
            say!("note: {note}");
        }
    }
    Ok(())
}

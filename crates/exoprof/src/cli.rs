//! Parses the command line and runs the command.

use clap::{ArgAction, Parser, Subcommand};
use console::usage::{UsageError, Verbosity};

use crate::record_args::RecordArgs;
use crate::{doctor, dump, logging, record, report, serve, top, view};

/// pprof for any running process, from outside: no restart, no rebuild, no code changes.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  sudo exoprof record -p $(pidof -s redis-server)")]
pub struct Cli {
    /// Print only errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log each step to stderr (-vv: in detail); EXOPROF_LOG=FILTER overrides it
    #[arg(short, long, global = true, conflicts_with = "quiet", action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record profiles of running processes or of a command
    Record(RecordArgs),
    /// Print the current stack of every thread, or of every goroutine of a Go program
    Dump(dump::DumpArgs),
    /// Check what can be recorded here and how to fix what cannot
    Doctor(doctor::DoctorArgs),
    /// Print reports on profile files or URLs, as `go tool pprof` does
    Report(Box<report::ReportArgs>),
    /// Serve pprof's HTTP endpoints for running processes
    Serve(Box<serve::ServeArgs>),
    /// Explore a profile in an interactive shell or a web page
    View(view::ViewArgs),
    /// Show the heaviest functions of a running process live in the terminal
    Top(top::TopArgs),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let verbosity = match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, 0) => Verbosity::Normal,
            (_, 1) => Verbosity::Verbose,
            _ => Verbosity::Debug,
        };
        logging::start(verbosity).map_err(|e| UsageError(e.to_string()))?;
        match self.command {
            Command::Record(args) => record::run(&args, verbosity),
            Command::Dump(args) => dump::run(&args, verbosity),
            Command::Doctor(args) => doctor::run(&args),
            Command::Report(args) => report::run(&args, verbosity),
            Command::Serve(args) => serve::run(&args, verbosity),
            Command::View(args) => view::run(&args, verbosity),
            Command::Top(args) => top::run(&args),
        }
    }
}

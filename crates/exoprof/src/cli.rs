//! The command line, as the contract in its documentation says.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::{bytes, doctor, dump, duration, record, report, serve, top, view};

/// The user asked for something that does not exist or does not go together: exit status 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// pprof for any running process, from outside: no restart, no rebuild, no import.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  sudo exoprof record -p $(pidof -s redis-server)")]
pub struct Cli {
    /// Silence all but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Explain what is done
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record profiles of running processes, or of a command, into pprof files
    Record(RecordArgs),
    /// Print every thread's stack as it is now, or every goroutine's of a Go program
    Dump(dump::DumpArgs),
    /// Say what can be recorded here, of a process, and what mends what cannot
    Doctor(doctor::DoctorArgs),
    /// Show what profile files hold, as `go tool pprof` does
    Report(Box<report::ReportArgs>),
    /// Serve pprof's HTTP endpoints for running processes
    Serve(Box<serve::ServeArgs>),
    /// Look into a profile with commands, as in the shell of `go tool pprof`
    View(view::ViewArgs),
    /// Show the heaviest functions of a running process, live, in the terminal
    Top(top::TopArgs),
}

/// Options of `record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo exoprof record -p 1234                 cpu, 30 s, exoprof.COMM.1234.cpu.001.pb.gz
  sudo exoprof record cpu -p 1234 -d 10 -F 997 -o slow.pb.gz
  exoprof record -d 5 -- ./my-program --flag  start a program and profile it
  go tool pprof -http=: slow.pb.gz            look at it")]
pub struct RecordArgs {
    /// Types of profiles, separated by commas
    #[arg(value_name = "TYPE", default_value = "cpu", help = types_help())]
    pub types: String,
    /// The running process; repeatable
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Vec<i32>,
    /// How long: `30`, `30s`, `500ms`, `2m`
    #[arg(short, long, value_name = "T", default_value = "30s", value_parser = duration::parse)]
    pub duration: Duration,
    /// Sampling rate of cpu, per thread on CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub freq: u32,
    /// The file (`-` is stdout), or a folder where several types are recorded
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Take kernel frames; an error where that is not permitted
    #[arg(long, overrides_with = "no_kernel")]
    pub kernel: bool,
    /// Take no kernel frames
    #[arg(long, overrides_with = "kernel")]
    pub no_kernel: bool,
    /// Follow forked children, those that run already too (the default)
    #[arg(long, overrides_with = "no_children")]
    pub children: bool,
    /// Do not follow forked children
    #[arg(long, overrides_with = "children")]
    pub no_children: bool,
    /// How samples are taken
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Mean bytes between heap samples, where sampling is switched on for the recording
    #[arg(long, value_name = "BYTES", default_value = "512KiB", value_parser = bytes::parse)]
    pub heap_rate: u64,
    /// Go: read what the program has sampled of its heap itself, change nothing
    #[arg(long)]
    pub heap_history: bool,
    /// Go's SetBlockProfileRate for the recording: one sample in this much waiting
    #[arg(long, value_name = "T", default_value = "10us", value_parser = duration::parse_nanoseconds)]
    pub block_rate: Duration,
    /// Go's SetMutexProfileFraction for the recording: one contention in this many
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub mutex_fraction: u32,
    /// mutex: the waiting side instead of the unlocker
    #[arg(long)]
    pub waiters: bool,
    /// Stop no thread, not for a moment; what cannot be recorded so is refused
    #[arg(long)]
    pub no_stop: bool,
    /// Fetch missing debug information from the servers in DEBUGINFOD_URLS
    #[arg(long)]
    pub debuginfod: bool,
    /// Overwrite an existing --output file
    #[arg(long)]
    pub force: bool,
    /// Start this command and profile it, in place of -p
    #[arg(last = true, value_name = "CMD", conflicts_with = "pid")]
    pub command: Vec<OsString>,
}

/// How samples are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Whatever suits
    Auto,
    /// perf_event_open
    Perf,
    /// Stopping threads for a moment each time
    Ptrace,
}

fn types_help() -> String {
    let kinds = collect::kinds::KINDS.iter().map(|k| format!("{}: {}", k.name, k.about));
    format!(
        "Types of profiles, separated by commas, or `all`. {}",
        kinds.collect::<Vec<_>>().join("; ")
    )
}

/// How much to say on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Results and warnings.
    Normal,
    /// Explanations too.
    Verbose,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let verbosity = match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
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

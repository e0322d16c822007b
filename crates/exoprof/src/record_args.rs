//! Options of `record`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use console::duration;

use crate::kind_args::KindArgs;

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
    /// Options that only some kinds have
    #[command(flatten)]
    pub own: KindArgs,
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
    let kinds = collect::kinds::all().into_iter().map(|k| format!("{}: {}", k.name(), k.about));
    format!(
        "Types of profiles, separated by commas, or `all`. {}",
        kinds.collect::<Vec<_>>().join("; ")
    )
}

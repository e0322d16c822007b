//! Defines the options of `record`.

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
  sudo exoprof record -p 1234                 cpu for 30 s, to exoprof.COMM.1234.cpu.001.pb.gz
  sudo exoprof record cpu -p 1234 -d 10 -F 997 -o slow.pb.gz
  exoprof record -d 5 -- ./my-program --flag  start a program and profile it
  go tool pprof -http=: slow.pb.gz            show the profile in a browser")]
pub struct RecordArgs {
    /// Types of profiles, separated by commas
    #[arg(value_name = "TYPE", default_value = "cpu", help = types_help())]
    pub types: String,
    /// Record this process; repeatable
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Vec<i32>,
    /// Record for this long: `30` (seconds), `500ms`, `2m`
    #[arg(short, long, value_name = "T", default_value = "30s", value_parser = duration::parse)]
    pub duration: Duration,
    /// Sample at this rate in Hz, per running thread
    #[arg(short = 'F', long, help = rate_help(), value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub freq: u32,
    /// Write to this file (`-` is stdout), or to this directory for several types
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// `--kernel` and `--no-kernel`
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Record child processes too, existing and new ones (the default)
    #[arg(long, overrides_with = "no_children")]
    pub children: bool,
    /// Do not record child processes
    #[arg(long, overrides_with = "children")]
    pub no_children: bool,
    /// Choose how to take samples
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Options that only some kinds have
    #[command(flatten)]
    pub own: KindArgs,
    /// Never stop a thread; fail if the profile would need it
    #[arg(long)]
    pub no_stop: bool,
    /// Download missing debug information from the servers in DEBUGINFOD_URLS
    #[arg(long)]
    pub debuginfod: bool,
    /// Overwrite an existing --output file
    #[arg(long)]
    pub force: bool,
    /// Start this command and record it, instead of -p
    #[arg(last = true, value_name = "CMD", conflicts_with = "pid")]
    pub command: Vec<OsString>,
}

/// Whether to record kernel frames.
#[derive(Debug, Clone, Copy, Args)]
pub struct KernelArgs {
    /// Record kernel frames; fail if that is not permitted [default: where permitted]
    #[arg(long, overrides_with = "no_kernel")]
    kernel: bool,
    /// Record no kernel frames
    #[arg(long, overrides_with = "kernel")]
    no_kernel: bool,
}

impl KernelArgs {
    /// `None` if neither option is given: record them where that is permitted.
    pub fn wanted(self) -> Option<bool> {
        match (self.kernel, self.no_kernel) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// How samples are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Choose automatically
    Auto,
    /// Use perf_event_open
    Perf,
    /// Briefly stop threads for each sample
    Ptrace,
}

fn rate_help() -> String {
    format!("Sample at this rate in Hz, per running thread ({})", collect::kinds::sampled())
}

fn types_help() -> String {
    let kinds = collect::kinds::all().into_iter().map(|k| format!("{}: {}", k.name(), k.about));
    format!(
        "Types of profiles, separated by commas, or `all`. {}",
        kinds.collect::<Vec<_>>().join("; ")
    )
}

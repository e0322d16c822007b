//! Options of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::duration;
use crate::http::listen::Listen;
use crate::serve::allow::Rule;

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo exoprof serve -p 1234                  one process, at http://127.0.0.1:6060/debug/pprof/
  go tool pprof http://127.0.0.1:6060/debug/pprof/profile?seconds=10
  sudo exoprof serve                          all processes, at /pid/PID/debug/pprof/; / lists them
  sudo exoprof serve --allow unit=api --listen unix:/run/exoprof.sock
  sudo exoprof serve --listen :6060 --token-file /etc/exoprof/token")]
pub struct ServeArgs {
    /// The process to serve; repeatable. Without, every process that may be profiled
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Vec<i32>,
    /// Where to listen: HOST:PORT, or unix:PATH; repeatable
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:6060", value_parser = Listen::parse)]
    pub listen: Vec<Listen>,
    /// A file with a token that each request must carry (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Listen on other addresses than loopback without a token
    #[arg(long)]
    pub insecure: bool,
    /// Serve these processes only: uid=, name=, cgroup=, unit=, joined by commas; repeatable
    #[arg(long, value_name = "RULE", value_parser = Rule::parse)]
    pub allow: Vec<Rule>,
    /// Sampling rate of cpu where a request does not say (hz=)
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub freq: u32,
    /// How long kinds other than cpu are recorded where a request does not say (seconds=)
    #[arg(long, value_name = "T", default_value = "5s", value_parser = duration::parse)]
    pub window: Duration,
    /// The longest recording that a request may ask for
    #[arg(long, value_name = "T", default_value = "10m", value_parser = duration::parse)]
    pub max_duration: Duration,
    /// The most recordings at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_recordings: u16,
    /// Give the unix socket to this group, which may then connect
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Become this user, keeping the capabilities that recordings need
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
}

//! Defines the options of `serve`.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use clap::Args;
use console::duration;
use console::http::listen::Listen;
use hyper::http::{HeaderName, HeaderValue};

use crate::allow::Rule;
use crate::peers::PeerRule;
use crate::push::Destination;

fn rate_help() -> String {
    format!("Sample at this rate in Hz if a request has no hz= ({})", collect::kinds::sampled())
}

fn window_help() -> String {
    let sampled = collect::kinds::sampled();
    format!("Record for this long if a request has no seconds= (all types but {sampled})")
}

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo exoprof serve -p 1234 --allow-peer $USER
  go tool pprof http://127.0.0.1:6060/debug/pprof/profile?seconds=10
  sudo exoprof serve                          all processes at /pid/PID/debug/pprof/
  sudo exoprof serve --allow unit=api --listen unix:/run/exoprof.sock
  sudo exoprof serve --listen :6060 --token-file /etc/exoprof/token
  sudo exoprof serve --allow unit=api --push http://pyroscope:4040
  sudo exoprof serve --allow unit=api --push grpcs://parca.example --push-token-file FILE")]
pub struct ServeArgs {
    /// Serve this process; repeatable [default: every process that may be profiled]
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Vec<i32>,
    /// Listen on HOST:PORT or unix:PATH; repeatable
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:6060", value_parser = Listen::parse)]
    pub listen: Vec<Listen>,
    /// Require the token in this file (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Allow addresses other than loopback without a token
    #[arg(long)]
    pub insecure: bool,
    /// Serve only matching processes: uid=, name=, cgroup=, unit=, joined by commas; repeatable
    #[arg(long, value_name = "RULE", value_parser = Rule::parse)]
    pub allow: Vec<Rule>,
    /// Let this user, group or `any` ask for all served processes; repeatable [default: root and who
    /// started the server; other local users only get their own processes]
    #[arg(long, value_name = "USER|GROUP|any", value_parser = PeerRule::parse)]
    pub allow_peer: Vec<PeerRule>,
    /// Sample at this rate in Hz if a request has no hz=
    #[arg(short = 'F', long, help = rate_help(), value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub freq: u32,
    /// Record for this long if a request has no seconds=
    #[arg(long, help = window_help(), value_name = "T", default_value = "5s", value_parser = duration::parse)]
    pub window: Duration,
    /// Reject requests for longer recordings
    #[arg(long, value_name = "T", default_value = "10m", value_parser = duration::parse)]
    pub max_duration: Duration,
    /// Run at most this many recordings at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_recordings: u16,
    /// Limit the total memory of recordings, in MiB; beyond it they end early and no new ones start
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub max_memory: u64,
    /// Never stop a thread; fail if a profile would need it
    #[arg(long)]
    pub no_stop: bool,
    /// Let this group connect to the unix socket and ask for all served processes there
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Switch to this user, keeping the capabilities that recordings require
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    #[command(flatten)]
    pub(crate) push: PushArgs,
}

/// Options of continuous profiling.
#[derive(Debug, Args)]
#[command(next_help_heading = "Continuous profiling")]
pub struct PushArgs {
    /// Continuously send profiles of the processes that -p or --allow selects to this URL:
    /// http://HOST:4040 (Pyroscope), grpc://HOST:7070 or parca+http://HOST:7070 (Parca); with TLS
    /// https://HOST, grpcs://HOST or parca+https://HOST; repeatable
    #[arg(long, value_name = "URL", value_parser = Destination::parse)]
    pub push: Vec<Destination>,
    /// Push these types of profiles, separated by commas
    #[arg(long, value_name = "TYPE", default_value = "cpu", value_delimiter = ',')]
    pub push_types: Vec<String>,
    /// Record for this long for each pushed profile
    #[arg(long, value_name = "T", default_value = "15s", value_parser = duration::parse)]
    pub push_interval: Duration,
    /// Add this label to pushed profiles; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::<'='>)]
    pub push_label: Vec<(String, String)>,
    /// Add this header to pushes, such as `X-Scope-OrgID: team`; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub push_header: Vec<(String, String)>,
    /// Add the headers in this file, one per line; keeps secrets out of the process list
    #[arg(long, value_name = "FILE")]
    pub push_header_file: Option<PathBuf>,
    /// Send the token in this file with pushes (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE")]
    pub push_token_file: Option<PathBuf>,
    /// Trust only the certificate authorities in this PEM file [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub push_ca: Option<PathBuf>,
    /// Allow sending tokens, passwords and header files to other machines without TLS
    #[arg(long)]
    pub push_insecure: bool,
    /// Push at most this many profiles at a time (one per process and type)
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub push_max: u16,
    /// Keep profiles in this directory until the server accepts them
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Limit the spool of each URL to this size, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub spool_limit: u64,
}

/// Parses a name and a value with a separator in between.
fn pair<const SEPARATOR: char>(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once(SEPARATOR).ok_or(format!("missing {SEPARATOR:?}"))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() || value.contains(char::is_control) {
        return Err("both a name and a value are required".into());
    }
    Ok((key.to_string(), value.to_string()))
}

/// Parses a header. An invalid one would otherwise fail with every profile.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair::<':'>(text)?;
    HeaderName::from_str(&name).map_err(|e| e.to_string())?;
    HeaderValue::from_str(&value).map_err(|e| e.to_string())?;
    Ok((name, value))
}

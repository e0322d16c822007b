//! Options of `serve`.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use clap::Args;
use console::duration;
use console::http::listen::Listen;
use hyper::http::{HeaderName, HeaderValue};

use crate::allow::Rule;
use crate::push::Destination;

/// Options of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo exoprof serve -p 1234                  one process, at http://127.0.0.1:6060/debug/pprof/
  go tool pprof http://127.0.0.1:6060/debug/pprof/profile?seconds=10
  sudo exoprof serve                          all processes, at /pid/PID/debug/pprof/; / lists them
  sudo exoprof serve --allow unit=api --listen unix:/run/exoprof.sock
  sudo exoprof serve --listen :6060 --token-file /etc/exoprof/token
  sudo exoprof serve --allow unit=api --push http://pyroscope:4040
  sudo exoprof serve --allow unit=api --push grpcs://parca.example --push-token-file FILE")]
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
    /// The most memory that recordings may take in all, in MiB: beyond it they end early, with what
    /// they have, and no more begin
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub max_memory: u64,
    /// Stop no thread of any process, not for a moment; what cannot be had so is refused
    #[arg(long)]
    pub no_stop: bool,
    /// Give the unix socket to this group, which may then connect
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Become this user, keeping the capabilities that recordings need
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    #[command(flatten)]
    pub(crate) push: PushArgs,
}

/// Options of continuous profiling.
#[derive(Debug, Args)]
#[command(next_help_heading = "Continuous profiling")]
pub struct PushArgs {
    /// Send profiles of -p or --allow without end to http://HOST:4040 (Pyroscope) or grpc://HOST
    /// (Parca, port 7070; by HTTP parca+http://HOST:7070), with TLS to https://HOST, grpcs://HOST
    /// or parca+https://HOST; repeatable
    #[arg(long, value_name = "URL", value_parser = Destination::parse)]
    pub push: Vec<Destination>,
    /// The kinds that are pushed, separated by commas
    #[arg(long, value_name = "TYPE", default_value = "cpu", value_delimiter = ',')]
    pub push_types: Vec<String>,
    /// The length of each recording that is pushed
    #[arg(long, value_name = "T", default_value = "15s", value_parser = duration::parse)]
    pub push_interval: Duration,
    /// A label of everything that is pushed; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::<'='>)]
    pub push_label: Vec<(String, String)>,
    /// A header of each push, such as `X-Scope-OrgID: team`; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub push_header: Vec<(String, String)>,
    /// A file of such headers, one a line: what is secret is not seen in the list of processes
    #[arg(long, value_name = "FILE")]
    pub push_header_file: Option<PathBuf>,
    /// A file with a token for pushes (Authorization: Bearer TOKEN)
    #[arg(long, value_name = "FILE")]
    pub push_token_file: Option<PathBuf>,
    /// A PEM file of the authorities whose certificates are believed, in place of the system's
    #[arg(long, value_name = "FILE")]
    pub push_ca: Option<PathBuf>,
    /// Send a token or password to other machines without TLS
    #[arg(long)]
    pub push_insecure: bool,
    /// The most processes and kinds that are pushed at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub push_max: u16,
    /// Where profiles wait for a server that is away
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// The size of the spool for each URL, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub spool_limit: u64,
}

/// Two words with a separator between.
fn pair<const SEPARATOR: char>(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once(SEPARATOR).ok_or(format!("there is no {SEPARATOR:?}"))?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() || value.contains(char::is_control) {
        return Err("a name and a value are needed".into());
    }
    Ok((key.to_string(), value.to_string()))
}

/// A header that can be sent: one that cannot would fail with every profile.
pub fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair::<':'>(text)?;
    HeaderName::from_str(&name).map_err(|e| e.to_string())?;
    HeaderValue::from_str(&value).map_err(|e| e.to_string())?;
    Ok((name, value))
}

//! Serves the endpoints of Go's `net/http/pprof` for any process: `exoprof serve`.

// `print!` and `eprintln!` panic when the reader has closed the pipe: use
// `console::terminal::say`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod allow;
mod answer;
mod args;
mod budget;
mod endpoints;
mod error;
mod notice;
mod pages;
mod peers;
mod privileges;
mod profile;
mod push;
mod record;
mod router;
mod state;
mod symbol;
mod targets;

use std::sync::Arc;

use console::http::HttpError;
use console::http::guard::{Guard, Token};
use console::http::listen::{Listen, Socket};
use console::http::server;
use console::stop::StopSignal;
use console::usage::UsageError;
use host::Rights;
use process::{OpenError, Process};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use allow::Allow;
use args::PushArgs;
pub use args::ServeArgs;
pub use error::ServeError;
pub use notice::{Notice, Notify};
use peers::{Entrance, PeerRule};
pub use privileges::PrivilegeError;
pub use push::PushError;
use state::{Server, Settings};
use targets::Targets;

/// Serves until a signal arrives. `notify` receives events meanwhile.
pub fn run(args: &ServeArgs, notify: &Notify) -> Result<(), ServeError> {
    check_exposure(args)?;
    let processes = open_all(&args.pid)?;
    let group = args.socket_group.as_deref().map(privileges::find_group).transpose()?;
    let user = args.user.as_deref().map(privileges::find_user).transpose()?;
    let mut listeners = Vec::new();
    for listen in &args.listen {
        // Read once per socket, so that the secret is not copied.
        let token =
            args.token_file.as_deref().map(Token::read).transpose().map_err(HttpError::from)?;
        listeners.push((listen.bind(group).map_err(HttpError::from)?, Guard::new(listen, token)));
    }
    let push = prepare_push(args, notify)?;
    let push = push.map(|p| push::Push::open(p, user.as_ref())).transpose()?;
    let stop = StopSignal::install().map_err(HttpError::Signals)?;
    // Each served process takes file descriptors. A lower limit only means fewer at a time.
    let _ = host::raise_nofile();
    collect::look_up_tracepoint();
    privileges::drop_unneeded(user.as_ref())?;
    let rights = Rights::read().map_err(ServeError::Rights)?;
    let has_all_users = rights.initial_user_namespace;
    let targets = Targets::new(processes, Allow(args.allow.clone()), rights);
    let settings = Settings {
        frequency: args.freq,
        window: args.window,
        max_duration: args.max_duration,
        max_recordings: args.max_recordings.into(),
        max_pushed: args.push.push_max.into(),
        max_memory: args.max_memory << 20,
        no_stop: args.no_stop,
    };
    let server = Arc::new(Server::new(targets, &settings));
    announce(&listeners, &server, notify);
    let listeners = with_entrances(listeners, args, group, has_all_users);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(HttpError::Start)?;
    let push = push.map(Arc::new);
    // Start threads only now: earlier ones would have kept their privileges.
    let senders = push.as_ref().map(|p| p.start_senders()).transpose()?;
    let outcome = runtime.block_on(serve(&server, listeners, push, stop));
    if let Some(senders) = senders {
        senders.join();
    }
    outcome
}

fn prepare_push(args: &ServeArgs, notify: &Notify) -> Result<Option<push::Settings>, ServeError> {
    let given = &args.push;
    if given.push.is_empty() {
        return Ok(None);
    }
    let usage = |text: String| ServeError::from(UsageError(text));
    if args.pid.is_empty() && args.allow.is_empty() {
        return Err(usage("--push requires -p PID or --allow RULE".into()));
    }
    let mut kinds = Vec::new();
    for name in &given.push_types {
        let found = endpoints::kind_named(name);
        kinds.push(found.ok_or_else(|| usage(format!("unknown profile type {name:?}")))?);
    }
    let headers = push_headers(given)?;
    check_secrets(given)?;
    let trust = match &given.push_ca {
        Some(path) if given.push.iter().any(push::Destination::is_tls) => {
            push::Trust::read(path).map_err(PushError::from)?
        }
        Some(_) => {
            return Err(usage("--push-ca needs TLS; use --push https://… or grpcs://…".into()));
        }
        None => push::Trust::System,
    };
    let labels = given.push_label.iter().map(|(k, v)| (push::label_name(k), v.clone()));
    Ok(Some(push::Settings {
        destinations: given.push.clone(),
        kinds,
        interval: given.push_interval,
        frequency: args.freq,
        labels: labels.collect(),
        headers,
        trust,
        spool: given.spool.clone().unwrap_or_else(push::default_spool),
        spool_limit: given.spool_limit << 20,
        notify: notify.clone(),
    }))
}

fn push_headers(given: &PushArgs) -> Result<Vec<(String, String)>, ServeError> {
    let mut headers = given.push_header.clone();
    if let Some(path) = &given.push_header_file {
        let failed = |source| ServeError::Headers { path: path.clone(), source };
        let text = host::files::read_small(path, 1 << 20).map_err(failed)?;
        let text = String::from_utf8_lossy(&text);
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            // Without the line's text, which may be secret.
            let failed = |why| ServeError::Header { path: path.clone(), line: i + 1, why };
            headers.push(args::header(line).map_err(failed)?);
        }
    }
    if let Some(path) = &given.push_token_file {
        let token = Token::read(path).map_err(HttpError::from)?;
        headers.push(("Authorization".into(), token.bearer()));
    }
    Ok(headers)
}

/// Rejects secrets that would be sent to another machine without TLS.
fn check_secrets(given: &PushArgs) -> Result<(), UsageError> {
    let authorization = |(name, _): &(String, String)| name.eq_ignore_ascii_case("authorization");
    let for_all = given.push_token_file.is_some()
        || given.push_header_file.is_some()
        || given.push_header.iter().any(authorization);
    let secret = |d: &&push::Destination| d.authorization.is_some() || for_all;
    let exposed = given.push.iter().filter(secret).find(|d| d.is_exposed());
    match exposed.filter(|_| !given.push_insecure) {
        Some(destination) => Err(UsageError(format!(
            "a token or password would be sent to {} without TLS; \
             use https:// or grpcs://, or --push-insecure",
            destination.url
        ))),
        None => Ok(()),
    }
}

/// Rejects addresses that other machines can reach without a token: clients can inspect processes.
fn check_exposure(args: &ServeArgs) -> Result<(), UsageError> {
    let exposed = args.listen.iter().find(|l| !l.is_local());
    match exposed {
        Some(Listen::Tcp { address, .. }) if args.token_file.is_none() && !args.insecure => {
            Err(UsageError(format!(
                "{address} is reachable from other machines; give --token-file FILE, or --insecure"
            )))
        }
        _ => Ok(()),
    }
}

/// Adds the rules for clients. `group` may connect to unix sockets, so it is admitted there.
fn with_entrances(
    listeners: Vec<(Socket, Guard)>,
    args: &ServeArgs,
    group: Option<nix::unistd::Gid>,
    has_all_users: bool,
) -> Vec<(Socket, Guard, Entrance)> {
    let with = |(socket, guard): (Socket, Guard)| {
        let group = group.filter(|_| matches!(socket, Socket::Unix(..)));
        let group = group.map(|group| PeerRule::Group(group.as_raw()));
        let entrance = Entrance {
            rules: args.allow_peer.iter().copied().chain(group).collect(),
            // Other programs may run as the user of --user too, such as nobody.
            own: args.user.is_none().then(|| nix::unistd::geteuid().as_raw()),
            has_all_users,
            authorized: args.token_file.is_some(),
        };
        (socket, guard, entrance)
    };
    listeners.into_iter().map(with).collect()
}

fn open_all(pids: &[i32]) -> Result<Vec<Process>, OpenError> {
    let mut processes: Vec<Process> = Vec::new();
    for &pid in pids {
        if processes.iter().all(|p| p.pid() != pid) {
            processes.push(Process::open(pid)?);
        }
    }
    Ok(processes)
}

fn announce(listeners: &[(Socket, Guard)], server: &Server, notify: &Notify) {
    let path = if server.targets.is_single() { "/debug/pprof/" } else { "/" };
    for (socket, _) in listeners {
        let what = match server.targets.fixed() {
            [] => "all processes that may be profiled".to_string(),
            some => some.iter().map(|e| e.shown()).collect::<Vec<_>>().join(", "),
        };
        let address = match socket {
            Socket::Tcp(_) => format!("{}{path}", socket.shown()),
            Socket::Unix(..) => socket.shown(),
        };
        notify(Notice::Listening { address, what });
    }
}

async fn serve(
    server: &Arc<Server>,
    listeners: Vec<(Socket, Guard, Entrance)>,
    push: Option<Arc<push::Push>>,
    stop: StopSignal,
) -> Result<(), ServeError> {
    let mut running = JoinSet::new();
    for (socket, guard, entrance) in listeners {
        let app = router::new(server.clone(), guard, entrance);
        let server = server.clone();
        running.spawn(async move { server::serve(socket, app, server.stopping()).await });
    }
    let pushing = push.map(|push| tokio::spawn(push.run(server.clone())));
    let watching = tokio::spawn(server.clone().watch_memory());
    let stop = stop.into_stream().and_then(UnixStream::from_std);
    let stop = stop.map_err(HttpError::Wait)?;
    tokio::select! {
        ready = stop.readable() => ready.map_err(HttpError::Wait)?,
        // A server ends without a signal only if it fails.
        Some(ended) = running.join_next() => ended?.map_err(HttpError::Serve)?,
    }
    watching.abort();
    server.stop();
    while let Some(ended) = running.join_next().await {
        ended?.map_err(HttpError::Serve)?;
    }
    if let Some(pushing) = pushing {
        pushing.await.map_err(ServeError::PushTask)?;
    }
    Ok(())
}

//! `exoprof serve`: the endpoints of Go's `net/http/pprof` for any process.

mod allow;
mod answer;
mod args;
mod endpoints;
mod pages;
mod privileges;
mod profile;
mod record;
mod router;
mod state;
mod symbol;
mod targets;

use std::sync::Arc;

use anyhow::Context as _;
use target::{Process, Rights};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::cli::{UsageError, Verbosity};
use crate::http::guard::{Guard, Token};
use crate::http::listen::{Listen, Socket};
use crate::http::server;
use crate::stop::StopSignal;

use allow::Allow;
pub use args::ServeArgs;
use state::{Server, Settings};
use targets::Targets;

/// Runs the command.
pub fn run(args: &ServeArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    check_exposure(args)?;
    let processes = open_all(&args.pid)?;
    let group = args.socket_group.as_deref().map(privileges::find_group).transpose()?;
    let user = args.user.as_deref().map(privileges::find_user).transpose()?;
    let mut doors = Vec::new();
    for listen in &args.listen {
        // Read for each, so that the secret is not copied about.
        let token = args.token_file.as_deref().map(Token::read).transpose()?;
        doors.push((listen.bind(group)?, Guard::new(listen, token)));
    }
    let stop = StopSignal::install().context("cannot handle signals")?;
    // Each served process takes descriptors. A lower limit only means fewer at a time.
    let _ = target::raise_nofile();
    privileges::drop_unneeded(user.as_ref())?;
    let rights = Rights::read().context("cannot read /proc/self/status")?;
    let targets = Targets::new(processes, Allow(args.allow.clone()), rights);
    let settings = Settings {
        frequency: args.freq,
        window: args.window,
        max_duration: args.max_duration,
        max_recordings: args.max_recordings.into(),
    };
    let server = Arc::new(Server::new(targets, &settings));
    if verbosity > Verbosity::Quiet {
        announce(&doors, &server);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(serve(&server, doors, stop))
}

/// Whoever can reach the server sees into processes: beyond this machine only with a token.
fn check_exposure(args: &ServeArgs) -> anyhow::Result<()> {
    let exposed = args.listen.iter().find(|l| !l.is_local());
    match exposed {
        Some(Listen::Tcp { address, .. }) if args.token_file.is_none() && !args.insecure => {
            Err(UsageError(format!(
                "{address} can be reached from other machines: give --token-file FILE, or --insecure"
            ))
            .into())
        }
        _ => Ok(()),
    }
}

fn open_all(pids: &[i32]) -> anyhow::Result<Vec<Process>> {
    let mut processes: Vec<Process> = Vec::new();
    for &pid in pids {
        if processes.iter().all(|p| p.pid() != pid) {
            processes.push(Process::open(pid)?);
        }
    }
    Ok(processes)
}

fn announce(doors: &[(Socket, Guard)], server: &Server) {
    let path = if server.targets.is_single() { "/debug/pprof/" } else { "/" };
    for (socket, _) in doors {
        let what = match server.targets.fixed() {
            [] => "all processes that may be profiled".to_string(),
            some => some.iter().map(|e| e.shown()).collect::<Vec<_>>().join(", "),
        };
        match socket {
            Socket::Tcp(_) => eprintln!("listening on {}{path}: {what}", socket.shown()),
            Socket::Unix(..) => eprintln!("listening on {}: {what}", socket.shown()),
        }
    }
}

async fn serve(
    server: &Arc<Server>,
    doors: Vec<(Socket, Guard)>,
    stop: StopSignal,
) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    for (socket, guard) in doors {
        let app = router::new(server.clone(), guard);
        let server = server.clone();
        running.spawn(async move { server::serve(socket, app, server.stopping()).await });
    }
    let stop = stop.into_stream().and_then(UnixStream::from_std);
    let stop = stop.context("cannot wait for signals")?;
    tokio::select! {
        ready = stop.readable() => ready.context("cannot wait for signals")?,
        // A server ends by itself only for a failure.
        Some(ended) = running.join_next() => ended?.context("cannot serve")?,
    }
    server.stop();
    while let Some(ended) = running.join_next().await {
        ended?.context("cannot serve")?;
    }
    Ok(())
}

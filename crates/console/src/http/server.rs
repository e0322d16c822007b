//! Accepts HTTP connections, within limits, until it is stopped.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::listen::{Socket, SocketFile};
use crate::http::stall::Stall;

/// Maximum number of open connections; more wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// How long a client may take to send its headers, or stay idle between two requests.
const HEADER_PATIENCE: Duration = Duration::from_secs(20);
/// Maximum bytes of a request's line and headers; larger ones get status 431.
const HEADER_BYTES: usize = 32 << 10;
/// Maximum number of headers of a request; more get status 431.
const HEADERS: usize = 64;
/// How long pending answers may take once the server stops.
const FAREWELL: Duration = Duration::from_secs(10);
/// The pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Either kind of connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Listener {
    fn new(socket: Socket) -> std::io::Result<(Self, Option<SocketFile>)> {
        Ok(match socket {
            Socket::Tcp(listener) => (Self::Tcp(TcpListener::from_std(listener)?), None),
            Socket::Unix(listener, file) => {
                (Self::Unix(UnixListener::from_std(listener)?), Some(file))
            }
        })
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Connection>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are written as a whole, so Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves `app` until `stop` resolves, then lets pending answers finish.
pub async fn serve(
    socket: Socket,
    app: Router,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (listener, file) = Listener::new(socket)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>((listener.accept().await?, slot))
        };
        tokio::select! {
            () = &mut stop => break,
            accepted = accepted => match accepted {
                Ok((stream, slot)) => answer(stream, slot, app.clone(), &graceful),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop((listener, file));
    // Clients that do not read their answer in this time do not get it.
    let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    Ok(())
}

fn answer(
    stream: Box<dyn Connection>,
    slot: OwnedSemaphorePermit,
    app: Router,
    graceful: &GracefulShutdown,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Stall::new(stream)), TowerToHyperService::new(app));
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // A client that disconnects is not our error.
        let _ = connection.await;
        drop(slot);
    });
}

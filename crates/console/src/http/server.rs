//! Accepts HTTP connections, within limits, until it is stopped.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::listen::{Socket, SocketFile};
use crate::http::peer::Peer;
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

    async fn accept(&self) -> std::io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are written as a whole, so Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                Stream::Tcp(stream)
            }
            Self::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        })
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    async fn with_peer(self) -> (Box<dyn Connection>, Peer) {
        match self {
            Self::Tcp(stream) => {
                let peer = Peer::of_tcp(&stream).await;
                (Box::new(stream), peer)
            }
            Self::Unix(stream) => {
                let peer = Peer::of_unix(&stream);
                (Box::new(stream), peer)
            }
        }
    }
}

/// Serves `app` until `stop` resolves, then lets pending answers finish. Each request carries its
/// [`Peer`] as an extension.
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
                Ok((stream, slot)) => {
                    tokio::spawn(answer(stream, slot, app.clone(), graceful.watcher()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop((listener, file));
    // Clients that do not read their answer in this time do not get it.
    let _ = tokio::time::timeout(FAREWELL, graceful.shutdown()).await;
    Ok(())
}

async fn answer(stream: Stream, slot: OwnedSemaphorePermit, app: Router, graceful: Watcher) {
    // Not in the loop that accepts connections: nobody else should wait for it.
    let (stream, peer) = stream.with_peer().await;
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Stall::new(stream)), service);
    // A client that disconnects is not our error.
    let _ = graceful.watch(connection).await;
    drop(slot);
}

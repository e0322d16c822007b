//! A gRPC server that receives what `exoprof serve --push grpc://…` sends and can be told to
//! misbehave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificates::PresentedCertificate;

/// Limit for waiting for a message, far above what is needed, so that a hung test ends.
const PATIENCE: Duration = Duration::from_secs(180);

/// How the server handles a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Accept it: answer with an empty message and status 0.
    Take,
    /// Answer with this gRPC status and message.
    Status(u32, &'static str),
    /// Answer with this HTTP status, as a proxy would.
    Http(u16),
    /// Close the connection after this many bytes.
    CutAfter(usize),
    /// Read the message and close the connection without an answer.
    CutAnswer,
}

/// An accepted call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method's path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The message without its gRPC frame header.
    pub message: Vec<u8>,
}

/// A running server.
#[derive(Debug)]
pub struct GrpcStore {
    address: SocketAddr,
    taken: Receiver<Call>,
    presented: PresentedCertificate,
}

impl GrpcStore {
    /// A server on a free port that handles calls as in `behaviours`, then accepts all others.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(behaviours: &[Behaviour]) -> Self {
        Self::listen(PresentedCertificate::new(None), behaviours)
    }

    /// Like [`Self::start`], with TLS.
    #[must_use]
    pub fn start_tls(certificate: Arc<ServerConfig>, behaviours: &[Behaviour]) -> Self {
        Self::listen(PresentedCertificate::new(Some(certificate)), behaviours)
    }

    fn listen(presented: PresentedCertificate, behaviours: &[Behaviour]) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket");
        let mut behaviours: VecDeque<_> = behaviours.iter().copied().collect();
        let (sender, taken) = channel();
        let certificate = presented.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("a socket");
                // One connection at a time: exoprof opens one for each call.
                while let Ok((stream, _)) = listener.accept().await {
                    let Some(tls) = certificate.get() else {
                        serve(stream, "http", &mut behaviours, &sender).await;
                        continue;
                    };
                    // A client that does not trust the certificate disconnects.
                    if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                        serve(stream, "https", &mut behaviours, &sender).await;
                    }
                }
            });
        });
        Self { address, taken, presented }
    }

    /// Presents another certificate from now on.
    pub fn show(&self, certificate: Arc<ServerConfig>) {
        self.presented.change(certificate);
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next accepted call.
    ///
    /// # Panics
    /// When none comes within minutes.
    #[must_use]
    pub fn next(&self) -> Call {
        self.taken.recv_timeout(PATIENCE).expect("a call within minutes")
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    scheme: &str,
    behaviours: &mut VecDeque<Behaviour>,
    taken: &Sender<Call>,
) {
    if let Some(Behaviour::CutAfter(bytes)) = behaviours.front() {
        let mut some = vec![0; *bytes];
        // Without an answer a client sends no more than its first flow-control window; that is
        // enough here.
        if stream.read_exact(&mut some).await.is_ok() {
            behaviours.pop_front();
        }
        return;
    }
    // With TLS, the client may reject the certificate only now and disconnect.
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        assert_eq!(scheme, "https", "a client of HTTP/2");
        return;
    };
    while let Some(Ok((request, mut response))) = connection.accept().await {
        let behaviour = behaviours.pop_front().unwrap_or(Behaviour::Take);
        // The connection must be polled while the message arrives.
        let call = tokio::select! {
            call = read(request, scheme) => call,
            _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
        };
        match behaviour {
            Behaviour::CutAfter(_) | Behaviour::CutAnswer => return,
            Behaviour::Take => {
                take(&mut response);
                let _ = taken.send(call);
            }
            Behaviour::Status(code, reason) => {
                let head = Response::builder().header("content-type", "application/grpc");
                let head = head.header("grpc-status", code).header("grpc-message", reason);
                response.send_response(head.body(()).expect("a head"), true).expect("an answer");
            }
            Behaviour::Http(status) => {
                let head = Response::builder().status(status).body(()).expect("a head");
                response.send_response(head, true).expect("an answer");
            }
        }
    }
}

fn take(response: &mut SendResponse<bytes::Bytes>) {
    let head = Response::builder().header("content-type", "application/grpc");
    let head = head.body(()).expect("a head");
    let mut body = response.send_response(head, false).expect("an answer");
    // An empty message.
    body.send_data(bytes::Bytes::from_static(&[0; 5]), false).expect("a message");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers).expect("an end");
}

/// Reads a call to its end and checks what gRPC requires of a client.
async fn read(request: Request<h2::RecvStream>, scheme: &str) -> Call {
    let (head, mut body) = request.into_parts();
    let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
    assert_eq!(head.method, http::Method::POST);
    assert_eq!(header("te"), Some("trailers"));
    assert_eq!(header("content-type"), Some("application/grpc"));
    assert_eq!(head.uri.scheme_str(), Some(scheme));
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).expect("what was received");
        bytes.extend_from_slice(&data);
    }
    let (frame, message) = bytes.split_at(5);
    assert_eq!(frame[0], 0, "not compressed");
    let length = u32::from_be_bytes(frame[1..].try_into().expect("four bytes"));
    assert_eq!(length as usize, message.len(), "one message, whole");
    Call { path: head.uri.path().into(), headers: head.headers, message: message.into() }
}

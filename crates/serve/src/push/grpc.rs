//! Makes one gRPC call over HTTP/2, with or without TLS, with the library `h2`
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! Each call has its own connection: calls are seconds apart, and an open connection would have to
//! answer the server's pings.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::{HeaderMap, Request, Response, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::push::destination::Outgoing;
use crate::push::tls;

/// Maximum bytes read of an answer, whose message is empty.
const MAX_ANSWER: usize = 4096;
/// Maximum length of a server's reason.
const MAX_REASON: usize = 1024;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// 0 is success: <https://grpc.io/docs/guides/status-codes/>.
    pub code: u32,
    /// The server's reason.
    pub reason: String,
}

impl Status {
    /// Whether the call succeeded.
    pub const fn is_ok(&self) -> bool {
        self.code == 0
    }

    /// Whether the message is invalid, so that a retry would fail too: INVALID_ARGUMENT,
    /// ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE.
    pub const fn is_refusal(&self) -> bool {
        matches!(self.code, 3 | 6 | 9 | 11)
    }
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The address is invalid.
    #[error("invalid address {0}")]
    Address(String),
    /// A header cannot be sent.
    #[error("cannot send a header: {0}")]
    Header(#[from] hyper::http::Error),
    /// The connection failed.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// TLS failed, for example because the certificate is not trusted.
    #[error("{}", tls::explain(.0))]
    Tls(std::io::Error),
    /// The server does not offer HTTP/2 over TLS.
    #[error("the server does not speak HTTP/2")]
    NoHttp2,
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Connection(#[from] h2::Error),
    /// The answer is not from a gRPC server, but from a proxy, for example.
    #[error("not a gRPC response: HTTP status {0}")]
    OtherProtocol(StatusCode),
    /// There was no answer in time.
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The call could not start.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

/// Calls a server, with TLS if there is a configuration for it, and waits for its answer.
pub fn call(
    outgoing: Outgoing,
    headers: &[(String, String)],
    tls: Option<&Arc<ClientConfig>>,
    patience: Duration,
) -> Result<Status, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CallError::Runtime)?;
    runtime.block_on(async {
        let exchange = tokio::time::timeout(patience, connect(outgoing, headers, tls));
        exchange.await.unwrap_or(Err(CallError::Timeout(patience)))
    })
}

async fn connect(
    outgoing: Outgoing,
    headers: &[(String, String)],
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Status, CallError> {
    let address = || CallError::Address(outgoing.url.clone());
    let uri: Uri = outgoing.url.parse().map_err(|_| address())?;
    let host = uri.host().ok_or_else(address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(CallError::Connect)?;
    let Some(tls) = tls else { return exchange(stream, uri, &outgoing, headers).await };
    let name = ServerName::try_from(host.to_string()).map_err(|_| address())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    let stream = stream.map_err(CallError::Tls)?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(CallError::NoHttp2);
    }
    exchange(stream, uri, &outgoing, headers).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: Uri,
    outgoing: &Outgoing,
    headers: &[(String, String)],
) -> Result<Status, CallError> {
    let (client, connection) = h2::client::handshake(stream).await?;
    // It ends with the runtime. Its errors are returned by the call.
    tokio::spawn(async move { drop(connection.await) });
    let mut request = Request::post(uri)
        .header("content-type", &outgoing.content_type)
        .header("te", "trailers")
        .header("user-agent", concat!("exoprof/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut client = client.ready().await?;
    let (response, mut body) = client.send_request(request.body(())?, false)?;
    body.send_data(framed(&outgoing.body), true)?;
    read_status(response.await?).await
}

/// A message with its prefix: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(message.len() + 5);
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

async fn read_status(response: Response<h2::RecvStream>) -> Result<Status, CallError> {
    let (head, mut body) = response.into_parts();
    // An error without a message has its status in the headers.
    if let Some(status) = status_in(&head.headers) {
        return Ok(status);
    }
    let mut read = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        read += data.len();
        if read > MAX_ANSWER {
            break;
        }
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = if read > MAX_ANSWER { None } else { body.trailers().await? };
    let status = trailers.as_ref().and_then(status_in);
    status.ok_or(CallError::OtherProtocol(head.status))
}

fn status_in(headers: &HeaderMap) -> Option<Status> {
    let text = |name| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
    let code = text("grpc-status")?.parse().ok()?;
    let reason = unescaped(&text("grpc-message").unwrap_or_default());
    Some(Status { code, reason })
}

/// Decodes `%20` and the like, up to [`MAX_REASON`] bytes.
fn unescaped(text: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(text).take(MAX_REASON).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_unescaped() {
        assert_eq!(unescaped("a%20b%C3%A4%"), "a b\u{e4}%");
        assert_eq!(unescaped("%zz%4"), "%zz%4");
    }

    #[test]
    fn messages_are_prefixed_with_their_length() {
        assert_eq!(&framed(b"abc")[..], b"\0\0\0\0\x03abc");
    }
}

//! Fetches a profile over HTTP.

use std::io::{self, Read};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};

use super::address::Url;
use super::error::FetchError;
use super::read_within;
use super::watcher::FetchProgress;

/// Maximum bytes of an answer: about a hundred times what servers send.
const MAX_ANSWER: u64 = 256 << 20;
/// Maximum bytes of a server's error that are shown.
const MAX_ERROR_BYTES: u64 = 1024;
/// The time a server has in addition to the recording time.
const GRACE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches a URL.
pub fn fetch(
    url: &Url,
    timeout: Duration,
    watcher: &mut dyn FetchProgress,
) -> Result<Vec<u8>, FetchError> {
    watcher.fetching(&url.to_string(), url.seconds());
    let fetched = read(url, timeout, watcher);
    watcher.fetched();
    fetched
}

fn read(
    url: &Url,
    timeout: Duration,
    watcher: &mut dyn FetchProgress,
) -> Result<Vec<u8>, FetchError> {
    let response = agent(url, timeout).get(url.request()).call()?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = response.into_body().into_reader();
    if status != StatusCode::OK {
        return Err(FetchError::Refused(refusal(status, &headers, &mut body)));
    }
    let mut bytes = Vec::new();
    let body = ProgressReader { from: body, watcher };
    read_within(body, MAX_ANSWER, &mut bytes).map_err(FetchError::CutShort)?;
    Ok(bytes)
}

fn agent(url: &Url, timeout: Duration) -> ureq::Agent {
    // The system's certificates include those of a company's own authority.
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .disable_verification(url.is_unchecked())
        .build();
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(timeout + GRACE))
        .tls_config(tls)
        .user_agent(concat!("exoprof/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A server's error on one line. Only Go's own handlers (and ours) mark their text as an error
/// message; other servers may send any page.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &mut dyn Read) -> String {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut line = format!("server response: {} {reason}", status.as_str()).trim_end().to_owned();
    if header("x-go-pprof").is_empty() || !header("content-type").contains("text/plain") {
        return line;
    }
    let mut text = Vec::new();
    // Show what was received, even if the connection ended early.
    let _ = body.take(MAX_ERROR_BYTES).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let words: Vec<&str> = text.split_whitespace().collect();
    if !words.is_empty() {
        line.push_str(" - ");
        line.push_str(&printable::line(&words.join(" ")));
    }
    line
}

/// Reports the progress of reading.
struct ProgressReader<'w, R> {
    from: R,
    watcher: &'w mut dyn FetchProgress,
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(bytes)?;
        self.watcher.received(read);
        Ok(read)
    }
}

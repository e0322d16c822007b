//! Fetching a profile over HTTP, with progress.

use std::io::{IsTerminal as _, Read};
use std::time::Duration;

use anyhow::{Context as _, bail};
use console::terminal::say;
use console::usage::Verbosity;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};

use super::address::Url;
use super::read_within;

/// No more of an answer is read: some hundred times what servers send.
const MAX_ANSWER: u64 = 256 << 20;
/// More of a server's error is not shown.
const MAX_ERROR_BYTES: u64 = 1024;
/// What a server gets beyond the time that it was asked to record.
const GRACE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches what is at a URL.
pub fn fetch(url: &Url, timeout: Duration, verbosity: Verbosity) -> anyhow::Result<Vec<u8>> {
    if verbosity > Verbosity::Quiet {
        say!("Fetching profile over HTTP from {url}");
        if let Some(seconds) = url.seconds() {
            say!("Please wait... ({seconds}s)");
        }
    }
    let bar = Bar::new(verbosity);
    let response = agent(url, timeout).get(url.request()).call()?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = response.into_body().into_reader();
    if status != StatusCode::OK {
        bail!("{}", refusal(status, &headers, &mut body));
    }
    let mut bytes = Vec::new();
    read_within(bar.0.wrap_read(body), MAX_ANSWER, &mut bytes)
        .context("the answer was cut short")?;
    Ok(bytes)
}

fn agent(url: &Url, timeout: Duration) -> ureq::Agent {
    // With the system's certificates: those of a company's own authority are there.
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

/// What a server said instead of a profile, on one line. Only Go's own handlers (and ours) mark
/// their text as meant for us; that of others may be any page.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &mut dyn Read) -> String {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut line = format!("server response: {} {reason}", status.as_str()).trim_end().to_owned();
    if header("x-go-pprof").is_empty() || !header("content-type").contains("text/plain") {
        return line;
    }
    let mut text = Vec::new();
    // What has come of it is shown, even if it ends early.
    let _ = body.take(MAX_ERROR_BYTES).read_to_end(&mut text);
    let text: String = String::from_utf8_lossy(&text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    if !words.is_empty() {
        line.push_str(" - ");
        line.push_str(&words.join(" "));
    }
    line
}

/// Time and bytes, on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(verbosity: Verbosity) -> Self {
        if verbosity == Verbosity::Quiet || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {bytes}") {
            bar.set_style(style);
        }
        // It turns while the server records and nothing comes.
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

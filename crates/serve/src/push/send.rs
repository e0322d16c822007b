//! Sends the messages of a spool, with retries.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::notice::{Notice, Notify};
use crate::push::destination::{Destination, Outgoing, Protocol};
use crate::push::grpc;
use crate::push::message::Message;
use crate::push::spool::{Next, Spool};
use crate::push::tls::{self, Trust};

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a request may take in total.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a message is tried that the server rejects as invalid.
const REFUSALS: u32 = 3;
/// Maximum bytes of an answer that are read and shown.
const MAX_ANSWER: u64 = 4096;

/// Sends to one server.
pub struct Sender {
    destination: Destination,
    headers: Vec<(String, String)>,
    agent: ureq::Agent,
    /// For gRPC with TLS.
    http2: Option<Arc<ClientConfig>>,
    notify: Notify,
}

/// There are no trusted certificate authorities.
#[derive(Debug, thiserror::Error)]
#[error("the system has no certificate authorities to trust; fix: --push-ca FILE")]
pub struct NoCertificates(#[source] rustls::Error);

/// The outcome of a request.
#[derive(Debug)]
enum Sent {
    /// The server accepted it.
    Done,
    /// The server rejects this message.
    Refused(String),
    /// The server is unavailable.
    Failed { why: String, wait: Option<Duration> },
}

impl Sender {
    /// Creates a sender with additional headers, such as a token or a tenant.
    pub fn new(
        destination: Destination,
        mut headers: Vec<(String, String)>,
        trust: &Trust,
        notify: Notify,
    ) -> Result<Self, NoCertificates> {
        if let Some(value) = &destination.authorization {
            // A user in the URL overrides the token of all URLs.
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            headers.push(("Authorization".into(), value.clone()));
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(trust.for_http())
            .user_agent(concat!("exoprof/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        // Checked for HTTP too: missing certificate authorities should be reported at the start.
        let http2 = destination.is_tls().then(|| trust.for_http2()).transpose();
        let http2 = http2.map_err(NoCertificates)?;
        Ok(Self { destination, headers, agent, http2, notify })
    }

    /// Sends until the spool is closed and empty, or its time has passed.
    pub fn run(&self, spool: &Spool) {
        let (mut failures, mut refusals) = (0u32, 0u32);
        let mut said = String::new();
        while let Next::Message(number) = spool.next() {
            let message = match spool.read(number) {
                Ok(Some(bytes)) => Message::from_bytes(&bytes).map_err(|e| e.to_string()),
                Ok(None) => continue,
                Err(e) => Err(e.to_string()),
            };
            let message = match message {
                Ok(message) => message,
                Err(e) => {
                    self.say(&format!("lost a profile in the spool: {e}"));
                    spool.remove(number);
                    continue;
                }
            };
            match self.send(&message) {
                Sent::Done => {
                    if failures > 0 {
                        let waiting = match spool.waiting() {
                            1 => "1 profile is".to_owned(),
                            n => format!("{n} profiles are"),
                        };
                        self.say(&format!("works again; {waiting} waiting in the spool"));
                    }
                    (failures, refusals) = (0, 0);
                    said.clear();
                    spool.remove(number);
                }
                Sent::Refused(why) if refusals + 1 >= REFUSALS => {
                    self.say(&format!(
                        "the server rejected a profile of {}: {why}",
                        message.service
                    ));
                    refusals = 0;
                    spool.remove(number);
                }
                Sent::Refused(_) => {
                    refusals += 1;
                    spool.pause(pause_after(refusals));
                }
                Sent::Failed { why, wait } => {
                    // A server that is reachable again may fail for another reason.
                    if said != why {
                        self.say(&format!("{why}; profiles wait in the spool"));
                        said = why;
                    }
                    failures = failures.saturating_add(1);
                    if spool.is_closing() {
                        break;
                    }
                    spool.pause(wait.unwrap_or_else(|| pause_after(failures)).min(LONGEST_PAUSE));
                }
            }
        }
        if spool.waiting() > 0 {
            let left = match spool.waiting() {
                1 => "1 profile stays".to_owned(),
                n => format!("{n} profiles stay"),
            };
            self.say(&format!("{left} in the spool until the next start"));
        }
    }

    fn say(&self, what: &str) {
        let url = self.destination.url.clone();
        (self.notify)(Notice::PushTo { url, what: what.to_owned() });
    }

    fn send(&self, message: &Message) -> Sent {
        let outgoing = self.destination.outgoing(message);
        let bytes = outgoing.body.len();
        tracing::info!(url = self.destination.url, bytes, "pushing a profile");
        match self.destination.protocol {
            Protocol::ParcaGrpc => self.call(outgoing),
            Protocol::Pyroscope | Protocol::Parca => self.post(&outgoing),
        }
    }

    fn call(&self, outgoing: Outgoing) -> Sent {
        match grpc::call(outgoing, &self.headers, self.http2.as_ref(), PATIENCE) {
            Ok(status) if status.is_ok() => Sent::Done,
            Ok(status) => {
                let why = shown(&format!("status {} {}", status.code, status.reason));
                if status.is_refusal() { Sent::Refused(why) } else { failed(why) }
            }
            Err(e) => failed(shown(&e.to_string())),
        }
    }

    fn post(&self, outgoing: &Outgoing) -> Sent {
        let mut request =
            self.agent.post(&outgoing.url).header("Content-Type", &outgoing.content_type);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = match request.send(&outgoing.body[..]) {
            Ok(response) => response,
            Err(ureq::Error::Io(e)) => return failed(shown(&tls::explain(&e))),
            Err(ureq::Error::Rustls(e)) => return failed(shown(&tls::explain_tls(&e))),
            Err(e) => return failed(e.to_string()),
        };
        let status = response.status();
        // Read to the end, so that the connection can be used again.
        let answer = response.body_mut().with_config().limit(MAX_ANSWER).lossy_utf8(true);
        let answer = answer.read_to_string().unwrap_or_default();
        if status.is_success() {
            return Sent::Done;
        }
        let why = shown(&format!("{status} {answer}"));
        match status.as_u16() {
            // The message is not at fault: a wrong token can be fixed while messages wait.
            401 | 403 | 404 | 408 | 425 | 429 | 300..=399 | 500.. => {
                let seconds = response.headers().get("retry-after");
                let seconds = seconds.and_then(|v| v.to_str().ok()?.parse().ok());
                Sent::Failed { why, wait: seconds.map(Duration::from_secs) }
            }
            _ => Sent::Refused(why),
        }
    }
}

fn failed(why: String) -> Sent {
    Sent::Failed { why, wait: None }
}

/// A server's answer on one line.
fn shown(why: &str) -> String {
    printable::line(why.lines().next().unwrap_or_default().trim()).into_owned()
}

/// Doubles the pause each time and randomizes it between half and whole, so that the clients of a
/// restarted server do not all retry at once.
fn pause_after(failures: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.clamp(1, 10).saturating_sub(1));
    let share = RandomState::new().hash_one(failures) % 1000;
    whole.min(LONGEST_PAUSE).mul_f64(0.5 + share as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for (failures, most) in [(1, 500), (2, 1000), (5, 8000), (7, 30_000), (u32::MAX, 30_000)] {
            let pause = pause_after(failures).as_millis();
            assert!(pause <= most && pause >= most / 2, "{failures}: {pause}");
        }
    }
}

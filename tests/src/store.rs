//! An HTTP profile store that receives what `exoprof serve --push` sends and can be told to
//! misbehave.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::PresentedCertificate;
use crate::http::read_head_and_body;

/// Limit for waiting for a message, far above what is needed, so that a hung test ends.
const PATIENCE: Duration = Duration::from_secs(180);

/// How the store handles a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Accept it: status 200.
    Take,
    /// Answer with this status.
    Status(u16),
    /// Close the connection in the middle of the message.
    CutMessage,
    /// Read the message and close the connection without an answer.
    CutAnswer,
}

/// An accepted request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its first line and headers.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// A running store.
#[derive(Debug)]
pub struct Store {
    address: SocketAddr,
    taken: Receiver<Request>,
    presented: PresentedCertificate,
}

impl Store {
    /// A store on a free port that handles requests as in `behaviours`, then accepts all others.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(behaviours: &[Behaviour]) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), behaviours)
    }

    /// Like [`Self::start`], at this address.
    ///
    /// # Panics
    /// When the address is in use.
    #[must_use]
    pub fn start_at(address: SocketAddr, behaviours: &[Behaviour]) -> Self {
        Self::listen(address, PresentedCertificate::new(None), behaviours)
    }

    /// Like [`Self::start`], with TLS.
    #[must_use]
    pub fn start_tls(certificate: Arc<ServerConfig>, behaviours: &[Behaviour]) -> Self {
        Self::listen(
            ([127, 0, 0, 1], 0).into(),
            PresentedCertificate::new(Some(certificate)),
            behaviours,
        )
    }

    fn listen(
        address: SocketAddr,
        presented: PresentedCertificate,
        behaviours: &[Behaviour],
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut behaviours: VecDeque<_> = behaviours.iter().copied().collect();
        let (sender, taken) = channel();
        let certificate = presented.clone();
        std::thread::spawn(move || {
            // One connection at a time: exoprof opens one for each store.
            for stream in listener.incoming().flatten() {
                let served = match certificate.get() {
                    None => serve(stream, &mut behaviours, &sender),
                    Some(tls) => {
                        let tls = ServerConnection::new(tls).expect("a certificate of ours");
                        serve(StreamOwned::new(tls, stream), &mut behaviours, &sender)
                    }
                };
                if served.is_none() {
                    return;
                }
            }
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

    /// The next accepted request.
    ///
    /// # Panics
    /// When none comes within minutes.
    #[must_use]
    pub fn next(&self) -> Request {
        self.taken.recv_timeout(PATIENCE).expect("a message within minutes")
    }
}

/// Serves a connection to its end; `None` once the test no longer receives messages.
fn serve(
    mut stream: impl Read + Write,
    behaviours: &mut VecDeque<Behaviour>,
    taken: &Sender<Request>,
) -> Option<()> {
    loop {
        if behaviours.front() == Some(&Behaviour::CutMessage) {
            let mut some = [0; 300];
            if stream.read_exact(&mut some).is_ok() {
                behaviours.pop_front();
            }
            return Some(());
        }
        let Some((head, body)) = read_head_and_body(&mut stream) else { return Some(()) };
        let status = match behaviours.pop_front().unwrap_or(Behaviour::Take) {
            Behaviour::Take => {
                taken.send(Request { head, body }).ok()?;
                200
            }
            Behaviour::Status(status) => status,
            Behaviour::CutMessage | Behaviour::CutAnswer => return Some(()),
        };
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\n{{}}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return Some(());
        }
    }
}

impl Request {
    /// The path and query.
    ///
    /// # Panics
    /// When it is not a POST request.
    #[must_use]
    pub fn target(&self) -> &str {
        let mut words = self.head.lines().next().unwrap_or_default().split(' ');
        assert_eq!(words.next(), Some("POST"), "{}", self.head);
        words.next().expect("a request has a path")
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// A query parameter, decoded.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        let query = self.target().split_once('?')?.1;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| unescaped(value))
    }

    /// A part of a multipart form, by RFC 7578.
    ///
    /// # Panics
    /// When the body is not a form.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<Vec<u8>> {
        let kind = self.header("content-type").expect("a content type");
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").expect("a form");
        let mark = [b"--", boundary.as_bytes()].concat();
        let at: Vec<usize> =
            (0..self.body.len()).filter(|i| self.body[*i..].starts_with(&mark)).collect();
        assert_eq!(at.first(), Some(&0), "the form begins with its boundary");
        let end = *at.last().expect("a boundary");
        assert_eq!(&self.body[end + mark.len()..], b"--\r\n", "the form's end");
        at.windows(2).find_map(|w| {
            // After the boundary's line, and before the line break that belongs to the next
            // boundary.
            let part = &self.body[w[0] + mark.len() + 2..w[1] - 2];
            let split = part.windows(4).position(|w| w == b"\r\n\r\n").expect("a part's head");
            let head = String::from_utf8_lossy(&part[..split]).into_owned();
            assert!(head.contains("form-data") && head.contains("filename="), "{head}");
            head.contains(&format!("name=\"{name}\";")).then(|| part[split + 4..].to_vec())
        })
    }
}

fn unescaped(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(b) = rest.next() {
        match b {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = std::str::from_utf8(&digits).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("hex digits"));
            }
            b => bytes.push(b),
        }
    }
    String::from_utf8(bytes).expect("a query is UTF-8")
}

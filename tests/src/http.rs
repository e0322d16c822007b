//! Runs `exoprof serve` and sends it requests, well-formed or not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::recorder::exoprof;

/// Limit for waiting for a line or a byte, far above what is needed, so that a hung test ends.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    address: Option<SocketAddr>,
}

impl Server {
    /// Starts `exoprof serve --listen 127.0.0.1:0 ARGS…` and waits until it listens.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        let mut command = exoprof();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(args);
        Self::start_command(command)
    }

    /// Starts a server for one process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self::start(&["-p", &pid.to_string()])
    }

    /// Starts any command that prints the address it listens on.
    ///
    /// # Panics
    /// When it does not start or does not listen.
    #[must_use]
    pub fn start_command(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Self { child, lines, log: Vec::new(), address: None };
        let line = server.wait_line("listening on ");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        server.address = address.map(|text| text.parse().expect("an address"));
        server
    }

    /// Waits for a line on stderr that contains `text`.
    ///
    /// # Panics
    /// When none comes within minutes.
    pub fn wait_line(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(e) => panic!("no line with {text:?} ({e}) after {:#?}", self.log),
            }
        }
    }

    /// exoprof's own process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The TCP address it listens on.
    ///
    /// # Panics
    /// When it listens on no TCP address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it listens on TCP")
    }

    /// The URL of a path on the server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Sends a GET request and waits for the answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        Request::get(path).send(self.address())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("the server can be signalled");
    }

    /// Waits for it to exit.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    /// Waits for it to exit, and returns all lines that it has written to stderr.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn all_lines(&mut self) -> &[String] {
        self.wait();
        self.log.extend(self.lines.iter());
        &self.log
    }

    /// How many perf events it has open: 0 while nothing is recorded.
    #[must_use]
    pub fn perf_events(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid())) else { return 0 };
        let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("[perf_event]")).count()
    }

    /// Waits until it records (`true`) or has stopped recording (`false`).
    ///
    /// # Panics
    /// When that takes minutes.
    pub fn wait_recording(&self, records: bool) {
        let began = std::time::Instant::now();
        while (self.perf_events() > 0) != records {
            assert!(began.elapsed() < PATIENCE, "recording is not {records}");
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; either way it must be reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP request.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A GET request for a path and query.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self { method: "GET".into(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Changes the method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// Adds a header. `Host` replaces the default one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A POST request with a body.
    #[must_use]
    pub fn post(path: &str, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..Self::get(path).method("POST") }
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if self.method == "POST" {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        [text.into_bytes(), self.body.clone()].concat()
    }

    /// Sends it and does not read the answer.
    ///
    /// # Panics
    /// When the server does not accept it.
    #[must_use]
    pub fn begin(&self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(&self.bytes(&address.to_string())).expect("the server reads");
        stream
    }

    /// Sends it and waits for the whole answer.
    #[must_use]
    pub fn send(&self, address: SocketAddr) -> Response {
        Response::read(self.begin(address))
    }

    /// Sends it over a Unix socket and waits for the whole answer.
    ///
    /// # Panics
    /// When the server does not accept it.
    #[must_use]
    pub fn send_unix(&self, path: &Path) -> Response {
        let mut stream = UnixStream::connect(path).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(&self.bytes("localhost")).expect("the server reads");
        Response::read(stream)
    }
}

/// An HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Reads to the end of the connection.
    ///
    /// # Panics
    /// When there is no answer, or an incomplete one.
    #[must_use]
    pub fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let at = at.unwrap_or_else(|| panic!("no answer ({read:?}): {bytes:?}"));
        let head = String::from_utf8(bytes[..at].to_vec()).expect("a head is text");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let response = Self { status, head, body: bytes[at + 4..].to_vec() };
        if let Some(length) = response.header("content-length") {
            let whole = length.parse().ok() == Some(response.body.len());
            assert!(whole || response.body.is_empty(), "cut short: {response:?}");
        }
        response
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts a failure in the form that `go tool pprof` displays, with these words.
    ///
    /// # Panics
    /// When the status, the headers or the words differ.
    #[track_caller]
    pub fn assert_fails(&self, status: u16, words: &[&str]) {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.header("x-go-pprof"), Some("1"), "{}", self.head);
        assert_eq!(self.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(text.lines().count(), 1, "{text:?}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text:?}");
        }
    }
}

/// Reads a request on the server's side: returns its first line and its body.
///
/// # Panics
/// When it is cut short.
pub fn read_request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let (head, body) = read_head_and_body(stream).expect("a whole request");
    (head.lines().next().unwrap_or_default().to_string(), body)
}

/// Reads a request: returns its whole head and its body, or `None` at the end of the connection.
pub fn read_head_and_body(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

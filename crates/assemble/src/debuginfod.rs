//! Debug information by build id from debuginfod: the caches of its clients, and, only where the
//! user asks for it, its servers (debuginfod(8), `debuginfod_find_debuginfo(3)`).

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use image::ElfImage;
use nix::unistd::{Uid, User};

/// A server that has not answered by then is left alone for a while.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole of one file.
const MAX_TRANSFER: Duration = Duration::from_secs(120);
/// Chromium's is 1.5 GiB.
const DEFAULT_MAX_BYTES: u64 = 2 << 30;
/// A server that was not reached is not asked again before.
const PATIENCE: Duration = Duration::from_secs(300);
/// More servers than anyone configures.
const MAX_SERVERS: usize = 16;

static SERVERS: OnceLock<Servers> = OnceLock::new();

/// Why servers cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// There are none.
    #[error(
        "DEBUGINFOD_URLS is not set: it holds the addresses of the servers, separated by spaces (sudo removes it: sudo DEBUGINFOD_URLS=\"$DEBUGINFOD_URLS\" exoprof …)"
    )]
    NoUrls,
    /// There is no place for what they send.
    #[error(
        "no folder for the cache: neither DEBUGINFOD_CACHE_PATH, XDG_CACHE_HOME nor HOME is set"
    )]
    NoCache,
}

/// Servers that are asked for debug information that is not on this machine.
#[derive(Debug)]
pub struct Servers {
    urls: Vec<String>,
    cache: PathBuf,
    max_bytes: u64,
    agent: ureq::Agent,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Builds that no server has.
    unknown: HashSet<Vec<u8>>,
    /// Servers that were not reached, and when.
    silent: Vec<(usize, Instant)>,
    /// What went wrong, for the user; taken by [`failures`].
    failures: Vec<String>,
}

/// From now on the servers that the environment names are asked, in this whole process.
/// `DEBUGINFOD_URLS`, `DEBUGINFOD_TIMEOUT` (seconds), `DEBUGINFOD_MAXSIZE` (bytes) and
/// `DEBUGINFOD_CACHE_PATH` have the meaning that they have for other clients.
///
/// # Errors
/// No servers are named, or there is no place for the cache.
pub fn use_servers_of_environment() -> Result<(), ServersError> {
    let urls = std::env::var("DEBUGINFOD_URLS").unwrap_or_default();
    let urls: Vec<String> = urls
        .split_whitespace()
        .filter(|u| u.starts_with("http://") || u.starts_with("https://"))
        .take(MAX_SERVERS)
        .map(|u| u.trim_end_matches('/').to_owned())
        .collect();
    if urls.is_empty() {
        return Err(ServersError::NoUrls);
    }
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let timeout = number("DEBUGINFOD_TIMEOUT").filter(|&n| n > 0).map(Duration::from_secs);
    let cache = own_cache().ok_or(ServersError::NoCache)?;
    let max_bytes = number("DEBUGINFOD_MAXSIZE").filter(|&n| n > 0).unwrap_or(DEFAULT_MAX_BYTES);
    // A second call finds the same environment.
    let _ = SERVERS.set(Servers::new(urls, cache, timeout.unwrap_or(DEFAULT_TIMEOUT), max_bytes));
    Ok(())
}

pub(crate) fn servers() -> Option<&'static Servers> {
    SERVERS.get()
}

/// What went wrong with the servers since the last call, for the user.
pub fn failures() -> Vec<String> {
    servers().map(|s| std::mem::take(&mut s.state().failures)).unwrap_or_default()
}

/// The folders of the caches: ours, and that of the user who called us by sudo.
pub(crate) fn caches() -> Vec<PathBuf> {
    let invoking = std::env::var("SUDO_UID").ok().filter(|_| Uid::effective().is_root());
    let uid = invoking.and_then(|uid| uid.parse().ok()).map(Uid::from_raw);
    let user = uid.and_then(|uid| User::from_uid(uid).ok()?);
    let theirs = user.map(|u| u.dir.join(".cache/debuginfod_client"));
    own_cache().into_iter().chain(theirs).collect()
}

fn own_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    folder("DEBUGINFOD_CACHE_PATH")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("debuginfod_client")))
        .or_else(|| Some(folder("HOME")?.join(".cache/debuginfod_client")))
}

/// The file for a build in a cache.
pub(crate) fn place_in(cache: &Path, id: &[u8]) -> PathBuf {
    cache.join(hex(id)).join("debuginfo")
}

fn hex(id: &[u8]) -> String {
    use std::fmt::Write as _;
    id.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

enum Failure {
    /// It has none of this build.
    NotThere,
    /// It was not reached, or broke off.
    Silent(String),
    /// What it sent cannot be used.
    Refused(String),
}

impl Servers {
    fn new(urls: Vec<String>, cache: PathBuf, timeout: Duration, max_bytes: u64) -> Self {
        let verifier = ureq::tls::RootCerts::PlatformVerifier;
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .timeout_global(Some(MAX_TRANSFER))
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(verifier).build())
            .user_agent(concat!("exoprof/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { urls, cache, max_bytes, agent: config.into(), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the debug information of a build.
    pub(crate) fn fetch(
        &self,
        id: &[u8],
        accept: &mut dyn FnMut(PathBuf, io::Result<File>) -> bool,
    ) {
        if self.state().unknown.contains(id) {
            return;
        }
        for (number, url) in self.urls.iter().enumerate() {
            self.state().silent.retain(|(_, when)| when.elapsed() < PATIENCE);
            if self.state().silent.iter().any(|(n, _)| *n == number) {
                continue;
            }
            let address = format!("{url}/buildid/{}/debuginfo", hex(id));
            match self.download(&address, id) {
                Ok(file) => {
                    if accept(place_in(&self.cache, id), Ok(file)) {
                        return;
                    }
                }
                Err(Failure::NotThere) => {}
                Err(Failure::Silent(why)) => {
                    let mut state = self.state();
                    state.silent.push((number, Instant::now()));
                    state.failures.push(format!("debuginfod: {url}: {why}"));
                }
                Err(Failure::Refused(why)) => {
                    self.state().failures.push(format!("debuginfod: {address}: {why}"));
                }
            }
        }
        self.state().unknown.insert(id.to_owned());
    }

    /// Downloads to the cache. The file gets its name when it is complete and the right one.
    fn download(&self, address: &str, id: &[u8]) -> Result<File, Failure> {
        let silent = |e: &dyn std::fmt::Display| Failure::Silent(e.to_string());
        let refused = |e: &dyn std::fmt::Display| Failure::Refused(e.to_string());
        let mut response = match self.agent.get(address).call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) => return Err(Failure::NotThere),
            Err(e @ ureq::Error::StatusCode(_)) => return Err(refused(&e)),
            Err(e) => return Err(silent(&e)),
        };
        let too_large = || Failure::Refused(format!("larger than {} bytes", self.max_bytes));
        let length = response.body().content_length();
        if length.is_some_and(|n| n > self.max_bytes) {
            return Err(too_large());
        }
        let place = place_in(&self.cache, id);
        let folder = place.parent().unwrap_or(&self.cache);
        std::fs::create_dir_all(folder).map_err(|e| refused(&e))?;
        let mut part = tempfile::NamedTempFile::new_in(folder).map_err(|e| refused(&e))?;
        let mut body = response.body_mut().as_reader().take(self.max_bytes + 1);
        let written = io::copy(&mut body, &mut part).map_err(|e| silent(&e))?;
        if written > self.max_bytes {
            return Err(too_large());
        }
        let image = ElfImage::open(part.as_file()).map_err(|e| refused(&e))?;
        if image.build_id() != Some(id) {
            return Err(Failure::Refused("the debug information of another build".into()));
        }
        part.persist(&place).map_err(|e| refused(&e))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A server that gives each request the next of some answers, and tells what was asked.
    fn server(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
                sender.send(first).unwrap();
                // A client that has seen enough hangs up.
                let _ = stream.write_all(&answer);
            }
        });
        (url, asked)
    }

    fn ok(body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    const NOT_FOUND: &[u8] =
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

    /// A program, and its build id.
    fn program(dir: &Path, text: &str) -> (Vec<u8>, Vec<u8>) {
        let (source, path) = (dir.join("p.c"), dir.join("p"));
        std::fs::write(&source, text).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-Wl,--build-id", "-o"]).arg(&path).arg(&source);
        assert!(gcc.status().unwrap().success());
        let image = ElfImage::open(&File::open(&path).unwrap()).unwrap();
        (std::fs::read(&path).unwrap(), image.build_id().unwrap().to_vec())
    }

    fn asking(urls: &[&str], cache: &Path, max_bytes: u64) -> Servers {
        let urls = urls.iter().map(ToString::to_string).collect();
        Servers::new(urls, cache.to_owned(), Duration::from_millis(500), max_bytes)
    }

    /// Whether a build is offered, and where it was put.
    fn offered(servers: &Servers, id: &[u8]) -> Option<PathBuf> {
        let mut found = None;
        servers.fetch(id, &mut |path, file| {
            let image = ElfImage::open(&file.unwrap()).unwrap();
            assert_eq!(image.build_id(), Some(id));
            found = Some(path);
            true
        });
        found
    }

    #[test]
    fn what_one_of_the_servers_has_gets_its_place_in_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, id) = program(dir.path(), "int main(void) { return 0; }");
        let (poor, poor_asked) = server(vec![NOT_FOUND.to_vec()]);
        let (rich, _asked) = server(vec![ok(&bytes)]);
        // Nobody listens at port 1.
        let servers = asking(&["http://127.0.0.1:1", &poor, &rich], dir.path(), 1 << 30);
        let place = dir.path().join(hex(&id)).join("debuginfo");
        assert_eq!(offered(&servers, &id), Some(place.clone()));
        assert_eq!(std::fs::read(&place).unwrap(), bytes);
        let line = format!("GET /buildid/{}/debuginfo HTTP/1.1", hex(&id));
        assert_eq!(poor_asked.recv().unwrap(), line);
        let failures = std::mem::take(&mut servers.state().failures);
        assert!(failures.len() == 1 && failures[0].contains("127.0.0.1:1"), "{failures:?}");
        let names: Vec<_> = std::fs::read_dir(place.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn what_is_too_large_or_of_another_build_or_breaks_off_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, _) = program(dir.path(), "int main(void) { return 0; }");
        let (_, id) = program(dir.path(), "int main(void) { return 1; }");
        let endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        let cases = [
            (ok(&bytes), 1 << 30, "another build"),
            (ok(&bytes), 100, "larger than 100 bytes"),
            ([endless, bytes.clone()].concat(), 1000, "larger than 1000 bytes"),
            (ok(&bytes)[..bytes.len() / 2].to_vec(), 1 << 30, "127.0.0.1"),
            (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec(), 1000, "500"),
            (b"garbage\r\n\r\n".to_vec(), 1000, "127.0.0.1"),
        ];
        for (answer, max_bytes, why) in cases {
            let (url, _asked) = server(vec![answer]);
            let servers = asking(&[&url], dir.path(), max_bytes);
            assert_eq!(offered(&servers, &id), None, "{why}");
            let failures = std::mem::take(&mut servers.state().failures);
            assert!(failures.len() == 1 && failures[0].contains(why), "{why}: {failures:?}");
            assert!(!place_in(dir.path(), &id).exists());
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_once_and_so_is_one_that_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // Accepted by the kernel, and never read.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = (format!("http://{}", mute.local_addr().unwrap()), mute);
        let (poor, asked) = server(vec![NOT_FOUND.to_vec(), NOT_FOUND.to_vec()]);
        let servers = asking(&[&mute.0, &poor], dir.path(), 1000);
        for id in [[1; 20], [1; 20], [2; 20]] {
            assert_eq!(offered(&servers, &id), None);
        }
        assert_eq!(asked.iter().take(2).count(), 2);
        let failures = std::mem::take(&mut servers.state().failures);
        assert!(failures.len() == 1 && failures[0].contains(&mute.0), "{failures:?}");
    }
}

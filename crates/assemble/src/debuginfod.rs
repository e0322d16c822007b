//! Finds debug information by build ID in the caches of debuginfod clients and, only if the user
//! asks for it, on debuginfod servers (debuginfod(8), `debuginfod_find_debuginfo(3)`).

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use host::files::Folder;
use image::ElfImage;
use nix::unistd::{Uid, User};

/// Time for a server to answer before it counts as unreachable.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the transfer of one file.
const MAX_TRANSFER: Duration = Duration::from_secs(120);
/// The debug information of Chromium has 1.5 GiB.
const DEFAULT_MAX_BYTES: u64 = 2 << 30;
/// How long an unreachable server is not asked again.
const RETRY_AFTER: Duration = Duration::from_secs(300);
/// More servers than anyone configures.
const MAX_SERVERS: usize = 16;

static SERVERS: OnceLock<Servers> = OnceLock::new();

/// Why servers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// `DEBUGINFOD_URLS` names none.
    #[error(
        "DEBUGINFOD_URLS is not set; set it to the URLs of the servers, separated by spaces (sudo removes it: sudo DEBUGINFOD_URLS=\"$DEBUGINFOD_URLS\" exoprof …)"
    )]
    NoUrls,
    /// There is no directory for the cache.
    #[error(
        "no directory for the debuginfod cache; set DEBUGINFOD_CACHE_PATH, XDG_CACHE_HOME or HOME"
    )]
    NoCache,
}

/// Servers that provide debug information that this machine does not have.
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
    /// Build IDs that no server has.
    unknown: HashSet<Vec<u8>>,
    /// Unreachable servers, by index, with the time of the failure.
    unreachable: Vec<(usize, Instant)>,
    /// Failures to show to the user; [`failures`] takes them.
    failures: Vec<String>,
}

/// Makes this process use the servers that the environment names, from now on. `DEBUGINFOD_URLS`, `DEBUGINFOD_TIMEOUT` (seconds), `DEBUGINFOD_MAXSIZE` (bytes) and
/// `DEBUGINFOD_CACHE_PATH` mean what they mean to other clients.
///
/// # Errors
/// No servers are named, or there is no directory for the cache.
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
    // Fails if it was called before, with the same environment.
    let _ = SERVERS.set(Servers::new(urls, cache, timeout.unwrap_or(DEFAULT_TIMEOUT), max_bytes));
    Ok(())
}

pub(crate) fn servers() -> Option<&'static Servers> {
    SERVERS.get()
}

/// Failures of servers since the last call, to be shown to the user.
pub fn failures() -> Vec<String> {
    servers().map(|s| std::mem::take(&mut s.state().failures)).unwrap_or_default()
}

/// The directories of the caches: ours, and that of the user who ran sudo.
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

/// Where a cache keeps the file of a build.
pub(crate) fn path_in(cache: &Path, id: &[u8]) -> PathBuf {
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
    /// The server does not have this build.
    NotFound,
    /// The server was not reached, or the connection broke.
    Unreachable(String),
    /// The answer cannot be used.
    Rejected(String),
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

    /// Passes the debug information of a build to `accept`, from each server until one is accepted.
    pub(crate) fn fetch(
        &self,
        id: &[u8],
        accept: &mut dyn FnMut(PathBuf, io::Result<File>) -> bool,
    ) {
        if self.state().unknown.contains(id) {
            return;
        }
        for (number, url) in self.urls.iter().enumerate() {
            self.state().unreachable.retain(|(_, when)| when.elapsed() < RETRY_AFTER);
            if self.state().unreachable.iter().any(|(n, _)| *n == number) {
                continue;
            }
            let address = format!("{url}/buildid/{}/debuginfo", hex(id));
            match self.download(&address, id) {
                Ok(file) => {
                    if accept(path_in(&self.cache, id), Ok(file)) {
                        return;
                    }
                }
                Err(Failure::NotFound) => {}
                Err(Failure::Unreachable(why)) => {
                    let mut state = self.state();
                    state.unreachable.push((number, Instant::now()));
                    state.failures.push(format!("debuginfod: {url}: {why}"));
                }
                Err(Failure::Rejected(why)) => {
                    self.state().failures.push(format!("debuginfod: {address}: {why}"));
                }
            }
        }
        self.state().unknown.insert(id.to_owned());
    }

    /// A cache in the invoking user's home is written with that user's rights.
    fn owner_of_cache(&self) -> host::user::User {
        let user = host::user::User::invoking();
        let at_home = user.home.as_ref().is_some_and(|home| self.cache.starts_with(home));
        if at_home { user } else { host::user::User::own() }
    }

    /// Downloads to the cache. The file gets its name only once it is complete and has the right
    /// build ID.
    fn download(&self, address: &str, id: &[u8]) -> Result<File, Failure> {
        let unreachable = |e: &dyn std::fmt::Display| Failure::Unreachable(e.to_string());
        let rejected = |e: &dyn std::fmt::Display| Failure::Rejected(e.to_string());
        let mut response = match self.agent.get(address).call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) => return Err(Failure::NotFound),
            Err(e @ ureq::Error::StatusCode(_)) => return Err(rejected(&e)),
            Err(e) => return Err(unreachable(&e)),
        };
        let too_large = || Failure::Rejected(format!("larger than {} bytes", self.max_bytes));
        let length = response.body().content_length();
        if length.is_some_and(|n| n > self.max_bytes) {
            return Err(too_large());
        }
        let place = path_in(&self.cache, id);
        let folder = place.parent().unwrap_or(&self.cache);
        let user = self.owner_of_cache();
        let folder = Folder::make(folder, &user, 0o755).map_err(|e| rejected(&e))?;
        let mut part = folder.new_file().map_err(|e| rejected(&e))?;
        let mut body = response.body_mut().as_reader().take(self.max_bytes + 1);
        let written = io::copy(&mut body, &mut part.file()).map_err(|e| unreachable(&e))?;
        if written > self.max_bytes {
            return Err(too_large());
        }
        let image = ElfImage::open(part.file()).map_err(|e| rejected(&e))?;
        if image.build_id() != Some(id) {
            return Err(Failure::Rejected("the file has a different build ID".into()));
        }
        let name = Path::new(place.file_name().unwrap_or_default());
        part.give_name(name, true).map_err(|e| rejected(&e))?;
        part.file().try_clone().map_err(|e| rejected(&e))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A server that sends the next answer for each request, and reports the request lines.
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
                // The client may close the connection before it has read everything.
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

    /// A program and its build ID.
    fn program(dir: &Path, text: &str) -> (Vec<u8>, Vec<u8>) {
        let (source, path) = (dir.join("p.c"), dir.join("p"));
        std::fs::write(&source, text).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.args(["-g", "-Wl,--build-id", "-o"]).arg(&path).arg(&source);
        assert!(gcc.status().unwrap().success());
        let image = ElfImage::open(&File::open(&path).unwrap()).unwrap();
        (std::fs::read(&path).unwrap(), image.build_id().unwrap().to_vec())
    }

    fn servers_at(urls: &[&str], cache: &Path, max_bytes: u64) -> Servers {
        let urls = urls.iter().map(ToString::to_string).collect();
        Servers::new(urls, cache.to_owned(), Duration::from_millis(500), max_bytes)
    }

    /// The path of a build that the servers provided.
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
    fn a_download_is_stored_in_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, id) = program(dir.path(), "int main(void) { return 0; }");
        let (poor, poor_asked) = server(vec![NOT_FOUND.to_vec()]);
        let (rich, _asked) = server(vec![ok(&bytes)]);
        // Nothing listens on port 1.
        let servers = servers_at(&["http://127.0.0.1:1", &poor, &rich], dir.path(), 1 << 30);
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
    fn downloads_that_are_too_large_or_wrong_or_incomplete_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, _) = program(dir.path(), "int main(void) { return 0; }");
        let (_, id) = program(dir.path(), "int main(void) { return 1; }");
        let endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        let cases = [
            (ok(&bytes), 1 << 30, "a different build ID"),
            (ok(&bytes), 100, "larger than 100 bytes"),
            ([endless, bytes.clone()].concat(), 1000, "larger than 1000 bytes"),
            (ok(&bytes)[..bytes.len() / 2].to_vec(), 1 << 30, "127.0.0.1"),
            (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec(), 1000, "500"),
            (b"garbage\r\n\r\n".to_vec(), 1000, "127.0.0.1"),
        ];
        for (answer, max_bytes, why) in cases {
            let (url, _asked) = server(vec![answer]);
            let servers = servers_at(&[&url], dir.path(), max_bytes);
            assert_eq!(offered(&servers, &id), None, "{why}");
            let failures = std::mem::take(&mut servers.state().failures);
            assert!(failures.len() == 1 && failures[0].contains(why), "{why}: {failures:?}");
            assert!(!path_in(dir.path(), &id).exists());
        }
    }

    #[test]
    fn unreachable_servers_and_unknown_builds_are_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        // The kernel accepts the connection; nothing reads from it.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = (format!("http://{}", mute.local_addr().unwrap()), mute);
        let (poor, asked) = server(vec![NOT_FOUND.to_vec(), NOT_FOUND.to_vec()]);
        let servers = servers_at(&[&mute.0, &poor], dir.path(), 1000);
        for id in [[1; 20], [1; 20], [2; 20]] {
            assert_eq!(offered(&servers, &id), None);
        }
        assert_eq!(asked.iter().take(2).count(), 2);
        let failures = std::mem::take(&mut servers.state().failures);
        assert!(failures.len() == 1 && failures[0].contains(&mute.0), "{failures:?}");
    }
}

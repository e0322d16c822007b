//! Parses and binds the addresses of servers: TCP or a unix socket.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use host::files::{Folder, Found, folder_of};
use host::user::User;
use nix::sys::stat::{Mode, umask};

/// The usual reason why an address cannot be bound.
const BUSY: &str = "is another server running there?";

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} ({})", BUSY)]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be created.
    #[error("cannot listen on {}", .path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server listens there.
    #[error("cannot listen on {} ({})", .0.display(), BUSY)]
    InUse(PathBuf),
    /// The path exists, but is not a socket.
    #[error("{} exists and is not a socket", .0.display())]
    NoSocket(PathBuf),
    /// A stale socket cannot be removed.
    #[error("cannot replace {}", .path.display())]
    Replace {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its group cannot be changed.
    #[error("cannot change the group of {} to {group}", .path.display())]
    Group {
        /// The socket's path.
        path: PathBuf,
        /// The group.
        group: nix::unistd::Gid,
        /// Why.
        source: io::Error,
    },
}

/// An address as the user gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `HOST:PORT`; port 0 takes a free one.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The host, where it was given by name.
        name: Option<String>,
    },
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl Listen {
    /// Parses `127.0.0.1:6060`, `[::1]:6060`, `localhost:6060`, `:6060` (all addresses) or
    /// `unix:/run/exoprof.sock`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: requires a path".into());
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp { address, name: None });
        }
        let form = "use HOST:PORT or unix:PATH";
        let Some((host, port)) = text.rsplit_once(':') else { return Err(form.into()) };
        let port: u16 = port.parse().map_err(|_| format!("invalid port: {form}"))?;
        if host.is_empty() {
            return Ok(Self::Tcp {
                address: (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
                name: None,
            });
        }
        let mut found = (host, port).to_socket_addrs().map_err(|e| format!("{host}: {e}"))?;
        let address = found.next().ok_or_else(|| format!("{host} has no address"))?;
        Ok(Self::Tcp { address, name: Some(host.to_string()) })
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { address, .. } => address.ip().to_canonical().is_loopback(),
        }
    }

    /// Binds it. Only the owner may connect to a unix socket, and `group` if given.
    pub fn bind(&self, group: Option<nix::unistd::Gid>) -> Result<Socket, ListenError> {
        match self {
            Self::Tcp { address, .. } => {
                let failed = |source| ListenError::Tcp { address: *address, source };
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Socket::Tcp(listener))
            }
            Self::Unix(path) => {
                let failed = |source| ListenError::Unix { path: path.clone(), source };
                // Whoever exchanges a directory on the path must not get another file's mode changed.
                let folder = Folder::open(folder_of(path), &User::own()).map_err(failed)?;
                let name = PathBuf::from(path.file_name().unwrap_or_default());
                remove_stale(&folder, &name, path)?;
                // Nobody else may connect between bind and chmod.
                let mask = umask(Mode::from_bits_truncate(0o177));
                let listener = UnixListener::bind(folder.path_by_descriptor().join(&name));
                umask(mask);
                let listener = listener.map_err(failed)?;
                let file = SocketFile { folder, name, path: path.clone() };
                if let Some(group) = group {
                    let failed = |source| ListenError::Group { path: path.clone(), group, source };
                    file.folder.open_socket_to(&file.name, group).map_err(failed)?;
                }
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Socket::Unix(listener, file))
            }
        }
    }
}

/// Removes a stale socket. A socket that accepts connections is kept, and so is any other file.
fn remove_stale(folder: &Folder, name: &Path, path: &Path) -> Result<(), ListenError> {
    match folder.find(name) {
        Ok(Found::Nothing) => return Ok(()),
        Ok(Found::Socket) => {}
        _ => return Err(ListenError::NoSocket(path.into())),
    }
    match UnixStream::connect(folder.path_by_descriptor().join(name)) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            folder.remove(name).map_err(|source| ListenError::Replace { path: path.into(), source })
        }
        _ => Err(ListenError::InUse(path.into())),
    }
}

/// A bound socket.
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket and its file.
    Unix(UnixListener, SocketFile),
}

impl Socket {
    /// The beginning of its URLs: `http://127.0.0.1:6060`, or `unix:/run/exoprof.sock`.
    pub fn shown(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(e) => format!("an unknown address ({e})"),
            },
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }
}

/// The file of a unix socket, removed when the server ends.
pub struct SocketFile {
    folder: Folder,
    name: PathBuf,
    /// As the user gave it.
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A failure is ignored: the next server replaces the file.
        if matches!(self.folder.find(&self.name), Ok(Found::Socket)) {
            let _ = self.folder.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn forms() {
        let tcp = |address: &str| Listen::Tcp { address: address.parse().unwrap(), name: None };
        assert_eq!(Listen::parse("127.0.0.1:6060"), Ok(tcp("127.0.0.1:6060")));
        assert_eq!(Listen::parse("[::1]:0"), Ok(tcp("[::1]:0")));
        assert_eq!(Listen::parse(":6060"), Ok(tcp("[::]:6060")));
        assert_eq!(Listen::parse("unix:/run/x"), Ok(Listen::Unix("/run/x".into())));
        assert!(Listen::parse("localhost:6060").unwrap().is_local());
        for wrong in ["", "6060", "localhost", "unix:", "127.0.0.1:x", "127.0.0.1:70000"] {
            assert!(Listen::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback_is_local() {
        let local = |text| Listen::parse(text).unwrap().is_local();
        assert!(local("127.0.0.1:1") && local("127.8.0.1:1") && local("[::1]:1"));
        assert!(local("[::ffff:127.0.0.1]:1") && local("unix:/x"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("10.0.0.1:1"));
    }

    #[test]
    fn a_unix_socket_is_private_and_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listen = Listen::Unix(path.clone());
        let socket = listen.bind(None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen.bind(None).is_err(), "a live socket must be kept");
        drop(socket);
        assert!(!path.exists());
        // A stale socket is replaced.
        drop(UnixListener::bind(&path).unwrap());
        assert!(listen.bind(None).is_ok());
        std::fs::write(&path, "mine").unwrap();
        assert!(listen.bind(None).is_err());
    }
}

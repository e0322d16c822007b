//! Finds out who is at the other end of a connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::http::sock_diag;

/// How long the kernel may take to name the owner of a socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection. Each request carries it as an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this user on this machine.
    Local {
        /// The user id of the process that created the socket.
        uid: u32,
        /// Its effective group id, known for unix sockets only.
        gid: Option<u32>,
    },
    /// Another machine.
    Remote(SocketAddr),
    /// It is on this machine, but the kernel does not say who it is.
    Unknown(String),
}

impl Peer {
    /// The peer of a TCP connection.
    pub(super) async fn of_tcp(stream: &TcpStream) -> Self {
        let (client, server) = match (stream.peer_addr(), stream.local_addr()) {
            (Ok(client), Ok(server)) => (client, server),
            (Err(e), _) | (_, Err(e)) => return Self::Unknown(e.to_string()),
        };
        // On a thread where it may block: another process can make the kernel slow.
        let asked = tokio::task::spawn_blocking(move || sock_diag::owner(client, server));
        let found = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => return Self::Unknown(e.to_string()),
            Err(_) => return Self::Unknown("the kernel did not answer".into()),
        };
        // Once our end is closed, another socket may have taken the peer's address.
        if let Err(e) = stream.peer_addr() {
            return Self::Unknown(e.to_string());
        }
        match found {
            Ok(uid) => Self::Local { uid, gid: None },
            Err(e) if is_local(client, server) => Self::Unknown(e.to_string()),
            Err(_) => Self::Remote(client),
        }
    }

    /// The peer of a unix socket, as it was when it connected.
    pub(super) fn of_unix(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(user) => Self::Local { uid: user.uid(), gid: Some(user.gid()) },
            Err(e) => Self::Unknown(format!("SO_PEERCRED failed: {e}")),
        }
    }
}

/// Whether a connection comes from this machine. A local client can bind to any local address
/// before it connects to loopback, so one loopback address is enough.
fn is_local(client: SocketAddr, server: SocketAddr) -> bool {
    let (client, server) = (client.ip().to_canonical(), server.ip().to_canonical());
    client.is_loopback() || server.is_loopback() || client == server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn own_connections_are_ours() {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(Peer::of_tcp(&server).await, Peer::Local { uid, gid: None });
        drop(client);
        assert!(matches!(Peer::of_tcp(&server).await, Peer::Unknown(_)));
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(Peer::of_unix(&one), Peer::Local { uid, gid: Some(gid) });
    }

    #[test]
    fn one_loopback_address_is_enough() {
        let local = |a: &str, b: &str| is_local(a.parse().unwrap(), b.parse().unwrap());
        assert!(local("127.0.0.1:1", "127.0.0.1:2") && local("10.0.0.1:1", "127.0.0.1:2"));
        assert!(local("[::ffff:127.0.0.1]:1", "[::1]:2") && local("10.0.0.1:1", "10.0.0.1:2"));
        assert!(!local("10.0.0.2:1", "10.0.0.1:2"));
    }
}

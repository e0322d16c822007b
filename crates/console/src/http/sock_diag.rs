//! Asks the kernel who owns the other end of a local TCP connection: sock_diag(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// The states in which a socket has an owner: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT,
/// LAST_ACK and CLOSING. The kernel reports user 0 for the owner of others, such as TIME_WAIT.
const OWNED: [u8; 6] = [1, 4, 5, 8, 9, 11];

/// Why the owner of a connection is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// The kernel does not answer.
    #[error("sock_diag failed: {0}")]
    Failed(Errno),
    /// No such socket is in our network namespace.
    #[error("its socket is not in this network namespace, or was closed")]
    NotFound,
    /// The socket has been closed, so it has no owner any more.
    #[error("its socket was closed")]
    Closed,
    /// The reply is malformed.
    #[error("sock_diag sent a malformed reply")]
    Malformed,
}

/// The user id that owns the socket that is bound to `client` and connected to `server`, as our
/// user namespace maps it.
///
/// The kernel answers at once, but may first wait for a lock or load a module.
///
/// # Errors
/// If there is no such socket, or it has been closed.
pub fn owner(client: SocketAddr, server: SocketAddr) -> Result<u32, OwnerError> {
    let ends = Ends::new(client, server);
    if ends.client.0.is_ipv4() != ends.server.0.is_ipv4() {
        return Err(OwnerError::NotFound);
    }
    parse(&ask(&ends).map_err(OwnerError::Failed)?, ends)
}

/// The addresses and ports of a connection. IPv4 addresses are never mapped to IPv6 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    client: (IpAddr, u16),
    server: (IpAddr, u16),
}

impl Ends {
    fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let end = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        Self { client: end(client), server: end(server) }
    }

    /// `struct inet_diag_sockid` without the interface and the cookie, which are set aside.
    fn to_bytes(self) -> [u8; 36] {
        let mut id = [0; 36];
        id[..2].copy_from_slice(&self.client.1.to_be_bytes());
        id[2..4].copy_from_slice(&self.server.1.to_be_bytes());
        id[4..20].copy_from_slice(&padded(self.client.0));
        id[20..].copy_from_slice(&padded(self.server.0));
        id
    }

    /// The ends of a reply's socket, whose own side is the client. A client's IPv6 socket has
    /// mapped addresses where it is connected over IPv4.
    fn of_message(message: &[u8; MESSAGE]) -> Option<Self> {
        let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let address = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&message[at..at + 16]);
            match i32::from(message[0]) {
                nix::libc::AF_INET => {
                    Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into())
                }
                nix::libc::AF_INET6 => Some(Ipv6Addr::from(bytes).to_canonical()),
                _ => None,
            }
        };
        Some(Self { client: (address(8)?, port(4)), server: (address(24)?, port(6)) })
    }
}

fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Sends a request for one socket; the kernel answers before `sendto` returns.
fn ask(ends: &Ends) -> Result<Vec<u8>, Errno> {
    let is_ipv6 = ends.client.0.is_ipv6();
    let family = if is_ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let family = u8::try_from(family as i32).map_err(|_| Errno::EAFNOSUPPORT)?;
    let tcp = u8::try_from(nix::libc::IPPROTO_TCP).map_err(|_| Errno::EPROTONOSUPPORT)?;
    let mut body = vec![family, tcp, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(ends.to_bytes());
    // Any interface, and no cookie.
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::EMSGSIZE)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    // A socket of its own for each request cannot receive the reply to another one.
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    )?;
    sendto(kernel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = vec![0; 4096];
    let (length, sender) = recvfrom::<NetlinkAddr>(kernel.as_raw_fd(), &mut reply)?;
    // Only the kernel has this id; other processes need privileges to send to us.
    if sender.is_none_or(|sender| sender.pid() != 0) {
        return Err(Errno::EBADMSG);
    }
    reply.truncate(length);
    Ok(reply)
}

fn parse(reply: &[u8], ends: Ends) -> Result<u32, OwnerError> {
    let word = |at: usize| -> Result<u32, OwnerError> {
        let bytes = reply.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or(OwnerError::Malformed)
    };
    let message = reply.get(HEADER..HEADER + MESSAGE);
    let message: Option<&[u8; MESSAGE]> = message.and_then(|m| m.try_into().ok());
    let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(SOCK_DIAG_BY_FAMILY) => {}
        Some(NLMSG_ERROR) => {
            let errno = Errno::from_raw(word(HEADER)?.cast_signed().saturating_neg());
            return Err(match errno {
                Errno::ENOENT => OwnerError::NotFound,
                errno => OwnerError::Failed(errno),
            });
        }
        _ => return Err(OwnerError::Malformed),
    }
    // If no connection matches, the kernel looks for a listener at the client's address.
    let message = message.ok_or(OwnerError::Malformed)?;
    if Ends::of_message(message) != Some(ends) {
        return Err(OwnerError::NotFound);
    }
    // An orphan has no inode, and older kernels report user 0 for it.
    let (uid, inode) = (word(HEADER + 64)?, word(HEADER + 68)?);
    if inode == 0 || !OWNED.contains(&message[1]) {
        return Err(OwnerError::Closed);
    }
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn ends(address: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let to = listener.local_addr().unwrap();
        // A dual-stack listener is reached over IPv4.
        let to = if to.ip().is_unspecified() { ([127, 0, 0, 1], to.port()).into() } else { to };
        let client = TcpStream::connect(to).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    fn owner_of(server: &TcpStream) -> Result<u32, OwnerError> {
        owner(server.peer_addr().unwrap(), server.local_addr().unwrap())
    }

    #[test]
    fn the_owner_is_known_while_the_socket_is_open() {
        let own = nix::unistd::geteuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (_listener, client, server) = ends(address);
            assert_eq!(owner_of(&server), Ok(own), "{address}");
            // Closed, it would be reported as root's.
            drop(client);
            assert!(owner_of(&server).is_err(), "{address}");
        }
    }

    #[test]
    fn an_ipv6_socket_that_is_connected_over_ipv4_has_an_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("::ffff:127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(server.peer_addr().unwrap().is_ipv4());
        assert_eq!(owner_of(&server), Ok(nix::unistd::geteuid().as_raw()));
    }

    #[test]
    fn a_socket_in_time_wait_has_no_owner() {
        let (_listener, client, server) = ends("127.0.0.1:0");
        let (client_address, server_address) =
            (client.local_addr().unwrap(), server.local_addr().unwrap());
        drop(client);
        drop(server);
        // First an orphan, then in TIME_WAIT.
        for _ in 0..20 {
            let found = owner(client_address, server_address);
            assert!(found.is_err(), "{found:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    #[test]
    fn a_listener_at_the_same_address_is_no_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(owner(address, ([127, 0, 0, 1], 1).into()), Err(OwnerError::NotFound));
    }

    #[test]
    fn other_states_and_replies_have_no_owner() {
        let id = Ends::new(([127, 0, 0, 1], 4).into(), ([127, 0, 0, 1], 5).into());
        let reply = |state: u8, inode: u32| {
            let mut reply = vec![0; HEADER + MESSAGE];
            reply[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            reply[HEADER..HEADER + 2].copy_from_slice(&[2, state]);
            reply[HEADER + 4..HEADER + 40].copy_from_slice(&id.to_bytes());
            reply[HEADER + 64..HEADER + 68].copy_from_slice(&1000_u32.to_ne_bytes());
            reply[HEADER + 68..].copy_from_slice(&inode.to_ne_bytes());
            reply
        };
        assert_eq!(parse(&reply(1, 7), id), Ok(1000));
        assert_eq!(parse(&reply(1, 0), id), Err(OwnerError::Closed), "an orphan");
        assert_eq!(parse(&reply(6, 7), id), Err(OwnerError::Closed), "TIME_WAIT");
        assert_eq!(parse(&reply(2, 7), id), Err(OwnerError::Closed), "SYN_SENT");
        let other = Ends::new(([127, 0, 0, 1], 4).into(), ([127, 0, 0, 1], 6).into());
        assert_eq!(parse(&reply(1, 7), other), Err(OwnerError::NotFound));
        let mut unknown = reply(1, 7);
        unknown[HEADER] = 1;
        assert_eq!(parse(&unknown, id), Err(OwnerError::NotFound), "another family");
        let whole = reply(1, 7);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], id).is_err(), "{length}");
        }
    }
}

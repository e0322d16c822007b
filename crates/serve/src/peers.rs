//! Decides what a client may ask for, by the user who connects: the rules of `--allow-peer`.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use console::http::peer::Peer;
use host::TargetRights;
use nix::unistd::{Gid, Group, Uid, User};
use process::Process;

use crate::answer::Failure;
use crate::state::blocking;

/// How long the system's databases may take to name a user's groups.
const PATIENCE: Duration = Duration::from_secs(10);

/// The user id that stands for all that have none in our user namespace
/// (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65_534;

/// Who may ask for all served processes, besides root and the user who started us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRule {
    /// Everybody.
    Any,
    /// One user.
    User(u32),
    /// The members of a group.
    Group(u32),
}

impl PeerRule {
    /// Parses `any`, the name or number of a user, or the name of a group. A user comes before a
    /// group of the same name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::Any);
        }
        if let Ok(uid) = text.parse() {
            return Ok(Self::User(uid));
        }
        let failed = |e| format!("cannot look up {text:?}: {e}");
        if let Some(user) = User::from_name(text).map_err(failed)? {
            return Ok(Self::User(user.uid.as_raw()));
        }
        let group = Group::from_name(text).map_err(failed)?;
        group
            .map(|g| Self::Group(g.gid.as_raw()))
            .ok_or_else(|| format!("unknown user or group {text:?}"))
    }
}

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every served process.
    All,
    /// Only the processes of this user.
    Own(u32),
}

impl Access {
    /// Whether it includes a process. As in ptrace(2), a process is a user's own only if all its
    /// user ids are, and if it is not protected from its user, as set-uid programs are, and has no
    /// capabilities.
    pub fn permits(self, process: &Process) -> bool {
        let Self::Own(uid) = self else { return true };
        let own = || -> std::io::Result<bool> {
            let rights = TargetRights::read(process.pid())?;
            let (ids, capabilities) = credentials(process.pid())?;
            Ok(ids == [uid; 4] && rights.dumpable && capabilities == 0)
        };
        // Both were read by PID, which is still its own if it is alive now.
        own().unwrap_or(false) && process.is_alive()
    }

    /// Whether to say why a process cannot be opened, which may include its name.
    pub fn permits_reason(self, pid: i32) -> bool {
        let Self::Own(uid) = self else { return true };
        credentials(pid).is_ok_and(|(ids, _)| ids == [uid; 4])
    }

    /// Why a process is refused.
    pub fn refusal(self, pid: i32) -> Failure {
        let text = match self {
            Self::All => format!("this client may not ask for process {pid}"),
            Self::Own(uid) => format!(
                "user {uid} may only ask for their own processes, which process {pid} is not; \
                 fix: start exoprof serve with --allow-peer {uid}"
            ),
        };
        Failure::new(StatusCode::FORBIDDEN, text)
    }
}

/// A process' real, effective, saved and file system user ids, and its permitted capabilities.
fn credentials(pid: i32) -> std::io::Result<([u32; 4], u64)> {
    let status = host::status::read(&pid.to_string())?;
    Ok(([status.ruid, status.euid, status.suid, status.fuid], status.capprm))
}

/// The checks of a socket.
#[derive(Debug)]
pub struct Entrance {
    /// The rules of `--allow-peer`.
    pub rules: Vec<PeerRule>,
    /// The user who started us. `None`: another one than we run as, by `--user`.
    pub own: Option<u32>,
    /// All user ids of the machine exist in our user namespace.
    pub has_all_users: bool,
    /// Requests are authorized already, by a token.
    pub authorized: bool,
}

impl Entrance {
    /// What a peer may ask for.
    fn access(&self, peer: &Peer) -> Result<Access, Failure> {
        if self.authorized || self.rules.contains(&PeerRule::Any) {
            return Ok(Access::All);
        }
        match peer {
            // It can only connect without a token if that was allowed explicitly.
            Peer::Remote(_) => Ok(Access::All),
            Peer::Local { uid: OVERFLOW, .. } if !self.has_all_users => {
                Err(unknown("its user id is not mapped in this user namespace"))
            }
            Peer::Local { uid, gid } if self.admits(*uid, *gid) => Ok(Access::All),
            Peer::Local { uid, .. } => Ok(Access::Own(*uid)),
            Peer::Unknown(why) => Err(unknown(why)),
        }
    }

    fn admits(&self, uid: u32, gid: Option<u32>) -> bool {
        uid == 0
            || self.own == Some(uid)
            || self.rules.contains(&PeerRule::User(uid))
            || self.rules.iter().any(|rule| match rule {
                PeerRule::Group(group) => gid == Some(*group) || is_member(uid, *group),
                PeerRule::Any | PeerRule::User(_) => false,
            })
    }
}

fn unknown(why: &str) -> Failure {
    Failure::new(
        StatusCode::FORBIDDEN,
        format!(
            "cannot tell which user sent the request ({why}); \
             fix: start exoprof serve with --token-file FILE or --allow-peer any"
        ),
    )
}

/// Whether a user belongs to a group now, by the system's databases.
fn is_member(uid: u32, group: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    let groups = nix::unistd::getgrouplist(&name, user.gid);
    groups.is_ok_and(|groups| groups.contains(&Gid::from_raw(group)))
}

/// Adds the client's [`Access`] to each request, or refuses it.
pub async fn layer(
    State(entrance): State<Arc<Entrance>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let has_groups = entrance.rules.iter().any(|r| matches!(r, PeerRule::Group(_)));
    let access = if has_groups {
        // The databases of users may be on the network.
        let looked_up = blocking(move || entrance.access(&peer));
        let late = |_| Failure::busy("the system did not name the groups of the user in time");
        tokio::time::timeout(PATIENCE, looked_up).await.map_err(late)???
    } else {
        entrance.access(&peer)?
    };
    request.extensions_mut().insert(access);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrance(rules: &[PeerRule]) -> Entrance {
        Entrance { rules: rules.to_vec(), own: Some(990), has_all_users: true, authorized: false }
    }

    fn local(uid: u32) -> Peer {
        Peer::Local { uid, gid: None }
    }

    #[test]
    fn root_and_who_started_us_may_ask_for_everything() {
        let access = |uid| entrance(&[]).access(&local(uid)).unwrap();
        assert_eq!(
            (access(0), access(990), access(1000)),
            (Access::All, Access::All, Access::Own(1000))
        );
        assert_eq!(
            entrance(&[]).access(&Peer::Remote(([10, 0, 0, 1], 1).into())).unwrap(),
            Access::All
        );
        assert!(entrance(&[]).access(&Peer::Unknown("closed".into())).is_err());
    }

    #[test]
    fn unmapped_users_are_unknown() {
        let nobody = Entrance { own: Some(OVERFLOW), ..entrance(&[]) };
        assert_eq!(nobody.access(&local(OVERFLOW)).unwrap(), Access::All);
        let in_namespace = Entrance { has_all_users: false, ..nobody };
        assert!(in_namespace.access(&local(OVERFLOW)).is_err());
        assert_eq!(in_namespace.access(&local(0)).unwrap(), Access::All);
    }

    #[test]
    fn rules_and_tokens_open_it() {
        let user = entrance(&[PeerRule::User(1000)]);
        assert_eq!(user.access(&local(1000)).unwrap(), Access::All);
        assert_eq!(user.access(&local(1001)).unwrap(), Access::Own(1001));
        let group = entrance(&[PeerRule::Group(70)]);
        let member = Peer::Local { uid: 1001, gid: Some(70) };
        assert_eq!(group.access(&member).unwrap(), Access::All);
        assert_eq!(group.access(&local(1001)).unwrap(), Access::Own(1001));
        let unknown = Peer::Unknown("closed".into());
        assert_eq!(entrance(&[PeerRule::Any]).access(&unknown).unwrap(), Access::All);
        let token = Entrance { authorized: true, ..entrance(&[]) };
        assert_eq!(token.access(&unknown).unwrap(), Access::All);
    }

    #[test]
    fn forms() {
        assert_eq!(PeerRule::parse("any"), Ok(PeerRule::Any));
        assert_eq!(PeerRule::parse("1000"), Ok(PeerRule::User(1000)));
        assert_eq!(PeerRule::parse("root"), Ok(PeerRule::User(0)));
        assert!(matches!(PeerRule::parse("nogroup"), Ok(PeerRule::Group(_))));
        assert!(PeerRule::parse("no-such-user").is_err() && PeerRule::parse("").is_err());
    }

    #[test]
    fn members_are_found_by_name() {
        assert!(is_member(0, 0), "root is in its own group");
        assert!(!is_member(0, 65_534) && !is_member(4_000_000, 0));
    }
}

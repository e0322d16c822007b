//! Drops the privileges that a server does not need.

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::unistd::{Group, User, setgroups, setresgid, setresuid};

/// Why privileges cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Our capabilities cannot be read.
    #[error("cannot read capabilities")]
    Read(#[source] CapsError),
    /// Capabilities cannot be kept when the user changes.
    #[error("cannot keep capabilities")]
    Keep(#[source] Errno),
    /// The user cannot be changed.
    #[error("cannot switch to user {name}")]
    Become {
        /// The user.
        name: String,
        /// Why.
        source: Errno,
    },
    /// Capabilities cannot be dropped.
    #[error("cannot drop capabilities")]
    GiveUp(#[source] CapsError),
    /// `no_new_privs` cannot be set.
    #[error("cannot set no_new_privs")]
    NoNew(#[source] Errno),
    /// Users and groups cannot be looked up.
    #[error(transparent)]
    LookUp(#[from] Errno),
    /// The user does not exist.
    #[error("unknown user {0:?}")]
    NoUser(String),
    /// The group does not exist.
    #[error("unknown group {0:?}")]
    NoGroup(String),
}

/// The capabilities that recordings require, and why.
const KEPT: &[Capability] = &[
    // Perf events of other users' processes, and of the kernel.
    Capability::CAP_PERFMON,
    Capability::CAP_BPF,
    // Memory, threads and mapped files of other users' processes.
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_CHECKPOINT_RESTORE,
    // Writing the rates of their Go runtimes: only the owner may open /proc/PID/mem. A process that
    // may trace any other gains nothing by this.
    Capability::CAP_DAC_OVERRIDE,
    // Their binaries and debug files, regardless of permissions.
    Capability::CAP_DAC_READ_SEARCH,
    // Addresses in /proc/kallsyms.
    Capability::CAP_SYSLOG,
    // Ring buffers beyond the limit of locked memory.
    Capability::CAP_IPC_LOCK,
];

/// Keeps only the capabilities above, as far as we have them; with `user`, switches to that user.
/// Programs that we might start cannot gain privileges either.
///
/// Capabilities belong to threads, so this must run before a second thread starts.
pub fn drop_unneeded(user: Option<&User>) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(PrivilegeError::Read)?;
    let kept: HashSet<Capability> =
        KEPT.iter().copied().filter(|c| permitted.contains(c)).collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            // An older kernel does not know it, so nobody has it.
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
    }
    if let Some(user) = user {
        nix::sys::prctl::set_keepcaps(true).map_err(PrivilegeError::Keep)?;
        setgroups(&[user.gid])
            .and_then(|()| setresgid(user.gid, user.gid, user.gid))
            .and_then(|()| setresuid(user.uid, user.uid, user.uid))
            .map_err(|source| PrivilegeError::Become { name: user.name.clone(), source })?;
    }
    let set = |which| caps::set(None, which, &kept).map_err(PrivilegeError::GiveUp);
    let _ = caps::clear(None, CapSet::Ambient);
    set(CapSet::Effective)?;
    set(CapSet::Permitted)?;
    caps::clear(None, CapSet::Inheritable).map_err(PrivilegeError::GiveUp)?;
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNew)
}

/// The user of that name or number.
pub fn find_user(name: &str) -> Result<User, PrivilegeError> {
    let found = match name.parse() {
        Ok(uid) => User::from_uid(nix::unistd::Uid::from_raw(uid))?,
        Err(_) => User::from_name(name)?,
    };
    found.ok_or_else(|| PrivilegeError::NoUser(name.into()))
}

/// The group of that name or number.
pub fn find_group(name: &str) -> Result<nix::unistd::Gid, PrivilegeError> {
    if let Ok(gid) = name.parse() {
        return Ok(nix::unistd::Gid::from_raw(gid));
    }
    let found = Group::from_name(name)?;
    found.map(|group| group.gid).ok_or_else(|| PrivilegeError::NoGroup(name.into()))
}

//! Giving up the rights that a server does not need.

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::unistd::{Group, User, setgroups, setresgid, setresuid};

/// Why rights cannot be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Ours cannot be read.
    #[error("cannot read capabilities")]
    Read(#[source] CapsError),
    /// They would go with the user.
    #[error("cannot keep capabilities")]
    Keep(#[source] Errno),
    /// The user cannot be changed.
    #[error("cannot become the user {name}")]
    Become {
        /// The user.
        name: String,
        /// Why.
        source: Errno,
    },
    /// They stay.
    #[error("cannot give up capabilities")]
    GiveUp(#[source] CapsError),
    /// Programs could gain new ones.
    #[error("cannot forbid new privileges")]
    NoNew(#[source] Errno),
    /// Users and groups cannot be looked up.
    #[error(transparent)]
    LookUp(#[from] Errno),
    /// The user does not exist.
    #[error("no user is called {0:?}")]
    NoUser(String),
    /// The group does not exist.
    #[error("no group is called {0:?}")]
    NoGroup(String),
}

/// What recordings need, and why.
const KEPT: &[Capability] = &[
    // Perf events of other users' processes, and of the kernel.
    Capability::CAP_PERFMON,
    Capability::CAP_BPF,
    // Memory, threads and mapped files of other users' processes.
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_CHECKPOINT_RESTORE,
    // Writing the rates of their Go runtimes: /proc/PID/mem is for its owner only. Who may trace
    // any process gains nothing new by this.
    Capability::CAP_DAC_OVERRIDE,
    // Their binaries and debug files, whoever may read them.
    Capability::CAP_DAC_READ_SEARCH,
    // Addresses in /proc/kallsyms.
    Capability::CAP_SYSLOG,
    // Ring buffers beyond the limit of locked memory.
    Capability::CAP_IPC_LOCK,
];

/// Keeps the capabilities above that we have, and no others; with `user`, becomes that user. No
/// program that we might start gains anything either.
///
/// Capabilities belong to threads: this must run before there is a second one.
pub fn drop_unneeded(user: Option<&User>) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(PrivilegeError::Read)?;
    let kept: HashSet<Capability> =
        KEPT.iter().copied().filter(|c| permitted.contains(c)).collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            // Unknown to an older kernel: then nobody can have it.
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

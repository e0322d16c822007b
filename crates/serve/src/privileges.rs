//! Giving up the rights that a server does not need.

use std::collections::HashSet;

use anyhow::Context as _;
use caps::{CapSet, Capability};
use nix::unistd::{Group, User, setgroups, setresgid, setresuid};

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
pub fn drop_unneeded(user: Option<&User>) -> anyhow::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read capabilities")?;
    let kept: HashSet<Capability> =
        KEPT.iter().copied().filter(|c| permitted.contains(c)).collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            // Unknown to an older kernel: then nobody can have it.
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
    }
    if let Some(user) = user {
        nix::sys::prctl::set_keepcaps(true).context("cannot keep capabilities")?;
        let shown = &user.name;
        setgroups(&[user.gid])
            .and_then(|()| setresgid(user.gid, user.gid, user.gid))
            .and_then(|()| setresuid(user.uid, user.uid, user.uid))
            .with_context(|| format!("cannot become the user {shown}"))?;
    }
    let set = |which| caps::set(None, which, &kept).context("cannot give up capabilities");
    let _ = caps::clear(None, CapSet::Ambient);
    set(CapSet::Effective)?;
    set(CapSet::Permitted)?;
    caps::clear(None, CapSet::Inheritable).context("cannot give up capabilities")?;
    nix::sys::prctl::set_no_new_privs().context("cannot forbid new privileges")?;
    Ok(())
}

/// The user of that name or number.
pub fn find_user(name: &str) -> anyhow::Result<User> {
    let found = match name.parse() {
        Ok(uid) => User::from_uid(nix::unistd::Uid::from_raw(uid))?,
        Err(_) => User::from_name(name)?,
    };
    found.with_context(|| format!("no user is called {name:?}"))
}

/// The group of that name or number.
pub fn find_group(name: &str) -> anyhow::Result<nix::unistd::Gid> {
    if let Ok(gid) = name.parse() {
        return Ok(nix::unistd::Gid::from_raw(gid));
    }
    let found = Group::from_name(name)?;
    Ok(found.with_context(|| format!("no group is called {name:?}"))?.gid)
}

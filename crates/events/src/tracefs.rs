//! Looks up the numbers of tracepoints in the kernel's tracing file system (tracefs).

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// Where tracefs is usually mounted.
const PLACES: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Reads files regardless of their permissions (linux/capability.h).
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

/// From linux/mount.h.
const FSCONFIG_CMD_CREATE: u32 = 6;

/// Why the number of a tracepoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TracepointError {
    /// tracefs is mounted nowhere, and we may not mount it ourselves, but could read it.
    #[error("threadcreate needs tracefs, which is not mounted")]
    NotMounted,
    /// Only root may read tracefs.
    #[error("threadcreate needs tracefs, which only root may read")]
    NotPermitted,
    /// tracefs is mounted, but the file with the number is missing or unreadable.
    #[error("cannot read the number of the tracepoint {name}: {source}")]
    Read {
        /// The tracepoint, such as `task/task_newtask`.
        name: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl TracepointError {
    /// The command or the step that fixes it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NotMounted => "mount -t tracefs none /sys/kernel/tracing",
            Self::NotPermitted => "run exoprof as root (sudo)",
            Self::Read { .. } => "boot a kernel with CONFIG_EVENT_TRACING=y",
        }
    }
}

/// Numbers that were found. They stay the same while the kernel runs; a server drops the privilege
/// to look them up.
static FOUND: Mutex<Vec<(&str, u64)>> = Mutex::new(Vec::new());

/// The number of a tracepoint such as `task/task_newtask`, by which perf_event_open(2) knows it.
/// It is remembered.
pub(crate) fn tracepoint(name: &'static str) -> Result<u64, TracepointError> {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&(_, id)) = found.iter().find(|(known, _)| *known == name) {
        return Ok(id);
    }
    let id = look_up(name)?;
    found.push((name, id));
    Ok(id)
}

fn look_up(name: &'static str) -> Result<u64, TracepointError> {
    let mut denied = false;
    for place in PLACES {
        match File::open(format!("{place}/events/{name}/id")).and_then(parse) {
            Ok(id) => return Ok(id),
            Err(e) => denied |= e.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    // Containers and small systems do not mount it. A mount that is invisible to others, and ends
    // when its descriptor is closed, requires CAP_SYS_ADMIN.
    let mount = private_mount().map_err(|error| {
        tracing::debug!(%error, "no private mount of tracefs");
        if !denied && may_read() {
            TracepointError::NotMounted
        } else {
            TracepointError::NotPermitted
        }
    })?;
    let path = CString::new(format!("events/{name}/id")).map_err(io::Error::from);
    let id = path.and_then(|path| open_at(&mount, &path)).and_then(parse);
    id.map_err(|source| TracepointError::Read { name, source })
}

/// Whether we could read tracefs if it were mounted. Whoever cannot is not helped by a mount.
fn may_read() -> bool {
    host::Rights::read().is_ok_and(|r| r.uid == 0 || r.capabilities & CAP_DAC_READ_SEARCH != 0)
}

fn parse(file: File) -> io::Result<u64> {
    let mut text = String::new();
    file.take(64).read_to_string(&mut text)?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

#[allow(unsafe_code)]
fn private_mount() -> io::Result<OwnedFd> {
    let none: *const libc::c_char = std::ptr::null();
    // SAFETY: a name that is a C string, and integers; a new descriptor is given to us alone.
    let context = unsafe { owned(libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1)) }?;
    // SAFETY: a live descriptor; the command takes no key and no value.
    let created = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a live descriptor and integers; a new descriptor is given to us alone.
    unsafe { owned(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0)) }
}

/// # Safety
/// `fd` is the result of a system call that gives a new descriptor.
#[allow(unsafe_code)]
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(unsafe_code)]
fn open_at(folder: &OwnedFd, path: &CStr) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a live descriptor and a C string; a new descriptor is given to us alone.
    unsafe { owned(libc::openat(folder.as_raw_fd(), path.as_ptr(), flags).into()) }.map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_fix() {
        let error = crate::CreationError::from(TracepointError::NotMounted).to_string();
        let expected = "threadcreate needs tracefs, which is not mounted; fix: mount -t tracefs \
                        none /sys/kernel/tracing";
        assert_eq!(error, expected);
    }

    /// Requires root.
    #[test]
    fn tracepoints_have_numbers_wherever_the_file_system_is_mounted() {
        let number = tracepoint("task/task_newtask").unwrap();
        assert_ne!(number, tracepoint("sched/sched_switch").unwrap());
        assert!(tracepoint("task/no_such_tracepoint").is_err());
    }
}

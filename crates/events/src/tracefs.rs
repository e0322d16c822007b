//! Numbers of tracepoints, as the kernel's tracing file system tells them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Where it is mounted, if it is.
const PLACES: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// linux/mount.h.
const FSCONFIG_CMD_CREATE: u32 = 6;

/// The number of a tracepoint such as `task/task_newtask`, by which perf_event_open(2) knows it.
pub(crate) fn tracepoint(name: &str) -> io::Result<u64> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in PLACES {
        match File::open(format!("{place}/events/{name}/id")) {
            Ok(file) => return parse(file),
            Err(e) => last = e,
        }
    }
    // Containers and small systems have it nowhere. A mount that nobody else sees, and that ends
    // with its descriptor, needs CAP_SYS_ADMIN.
    let Ok(mount) = private_mount() else { return Err(last) };
    let path =
        CString::new(format!("events/{name}/id")).map_err(|_| io::ErrorKind::InvalidInput)?;
    parse(open_at(&mount, &path)?)
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

    /// Needs root, as the live tests of this crate do.
    #[test]
    fn tracepoints_have_numbers_wherever_the_file_system_is_mounted() {
        let number = tracepoint("task/task_newtask").unwrap();
        assert_ne!(number, tracepoint("sched/sched_switch").unwrap());
        assert!(tracepoint("task/no_such_tracepoint").is_err());
    }
}

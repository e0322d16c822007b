//! Calls bpf(2) directly where aya has no types: task storage, and arrays of our own perf events.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct UpdateElement {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;

/// Sets an element of a map whose keys and values have 4 bytes.
#[allow(unsafe_code)]
pub(super) fn set_element(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    let attr = UpdateElement {
        map_fd: map.as_raw_fd().cast_unsigned(),
        _padding: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: the attribute is initialized in full and its size is given; key and value are alive
    // and as long as the map's, which our own object declares.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_ELEM,
            &raw const attr,
            size_of::<UpdateElement>() as libc::c_uint,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

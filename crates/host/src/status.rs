//! Parses `/proc/PID/status` (proc_pid_status(5)), for our own process and for others.

use std::fs;
use std::io;

use procfs::FromRead as _;
use procfs::process::Status;

/// Parses the text of a `status` file.
///
/// The kernel writes it, but for the name: that is up to 15 bytes of the process's choice. Newlines
/// in it are escaped, bytes that are not UTF-8 are not, and are replaced here (a name can also be
/// cut within a character).
///
/// # Errors
/// `InvalidData` where a field that every kernel has is missing or malformed.
pub fn parse(text: &[u8]) -> io::Result<Status> {
    let text = String::from_utf8_lossy(text);
    Status::from_read(text.as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// Reads the status of `/proc/NAME`: a PID or thread ID in our PID namespace, `self` or
/// `thread-self`.
///
/// # Errors
/// The error of reading the file; see also [`parse`].
pub fn read(name: &str) -> io::Result<Status> {
    parse(&fs::read(format!("/proc/{name}/status"))?)
}

/// TID of the tracer (such as gdb or strace) of this thread.
#[must_use]
pub fn tracer(status: &Status) -> Option<i32> {
    Some(status.tracerpid).filter(|tid| *tid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_read() {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let (_, rest) = own.split_once('\n').unwrap();
        for name in [&b"\xd0"[..], b"", b"a: b", b"\\nTgid:\t1", b"a b)", &[0xff; 15]] {
            let text = [b"Name:\t", name, b"\n", rest.as_bytes()].concat();
            let status = parse(&text).unwrap();
            assert_eq!(status.tgid, std::process::id().cast_signed(), "{}", name.escape_ascii());
            assert_eq!(tracer(&status), None);
        }
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let whole = fs::read("/proc/self/status").unwrap();
        // Half of a line, and none of the last ones.
        for length in [0, 10, whole.len() / 2] {
            assert!(parse(&whole[..length]).is_err(), "{length}");
        }
    }
}

//! Reads which PID namespace we are in: samples and BPF records carry its numbers.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// How deep our PID namespace is nested: 0 for the machine's first one.
#[must_use]
pub fn pid_level() -> u32 {
    let numbers = crate::status::read("self").ok().and_then(|status| status.nspid);
    numbers.map_or(0, |numbers| numbers.len().saturating_sub(1) as u32)
}

/// The inode of our PID namespace, by which the kernel tells namespaces apart.
///
/// # Errors
/// The error of looking at `/proc/self/ns/pid`.
pub fn pid_inode() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_length_of_our_list_of_numbers() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap();
        assert_eq!(pid_level() as usize + 1, line.split_whitespace().count());
        assert!(pid_inode().unwrap() > 0);
    }
}

//! Parses `/proc/PID/maps` (layout: proc_pid_maps(5)).
//!
//! The procfs crate is not used: it fails for a path that is not UTF-8 and copies the path of each
//! row.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};

use image::{Avma, FileId, FileOffset, MappingKind};

use crate::Process;
use crate::stat::decimal;

/// No process has more rows: `vm.max_map_count` is 65530 unless raised, and rarely above 1 Mi.
const MAX_ROWS: usize = 1 << 20;
/// A path is at most 4096 bytes, each of which may be escaped to four.
const MAX_LINE: u64 = 32 * 1024;

/// The access that a mapping allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Perms {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
    /// `s` in place of `p`: written back to the file.
    pub shared: bool,
}

/// One row of `/proc/PID/maps`, or an mmap event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapRow {
    /// First address.
    pub start: Avma,
    /// First address after it.
    pub end: Avma,
    /// The access that it allows.
    pub perms: Perms,
    /// Offset of `start` in the file, in bytes; meaningless without a file.
    pub offset: FileOffset,
    /// The device and inode, all zero without a file.
    pub file: FileId,
    /// The path as the process sees it, or a name such as `[vdso]`. It may be empty and need not be
    /// UTF-8. The kernel's ` (deleted)` is removed.
    pub path: Box<[u8]>,
    /// The path ended in ` (deleted)`: the file was unlinked (or is really called that).
    pub deleted: bool,
}

/// The rows of a process at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maps {
    /// In the order of addresses.
    pub rows: Vec<MapRow>,
    /// Rows that were read, including those that were not asked for.
    pub read: usize,
    /// Rows that could not be parsed.
    pub malformed: usize,
    /// The process has more than a million mappings; the rest was not read.
    pub truncated: bool,
}

impl MapRow {
    /// A row from an mmap event, whose path is unescaped but may end in ` (deleted)`.
    ///
    /// `pgoff` is in bytes, as `PERF_RECORD_MMAP2` gives it. `None` where the range is empty or
    /// wraps around.
    #[must_use]
    pub fn from_event(
        start: Avma,
        len: u64,
        pgoff: FileOffset,
        perms: Perms,
        file: FileId,
        path: &[u8],
    ) -> Option<Self> {
        let end = start.checked_add(len).filter(|end| *end > start)?;
        let (path, deleted) = strip_deleted(path.to_vec());
        Some(Self { start, end, perms, offset: pgoff, file, path: path.into(), deleted })
    }

    /// Parses one line, without its newline.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let (range, rest) = split_once(line, b' ')?;
        let (start, end) = split_once(range, b'-')?;
        let (perms, rest) = split_once(rest, b' ')?;
        let (offset, rest) = split_once(rest, b' ')?;
        let (device, rest) = split_once(rest, b' ')?;
        let (major, minor) = split_once(device, b':')?;
        let (inode, path) = split_once(rest, b' ').unwrap_or((rest, b""));
        let (start, end) = (Avma(hex(start)?), Avma(hex(end)?));
        let &[r, w, x, s] = perms else { return None };
        if start >= end {
            return None;
        }
        let path = &path[path.iter().position(|b| *b != b' ').unwrap_or(path.len())..];
        let (path, deleted) = strip_deleted(unescape(path));
        Some(Self {
            start,
            end,
            perms: Perms {
                read: r == b'r',
                write: w == b'w',
                execute: x == b'x',
                shared: matches!(s, b's' | b'S'),
            },
            offset: FileOffset(hex(offset)?),
            file: FileId {
                major: u32::try_from(hex(major)?).ok()?,
                minor: u32::try_from(hex(minor)?).ok()?,
                inode: decimal(inode)?,
            },
            path: path.into(),
            deleted,
        })
    }

    /// The file's identity, for a mapping that has a file.
    #[must_use]
    pub fn file_id(&self) -> Option<FileId> {
        (self.kind() == MappingKind::File).then_some(self.file)
    }

    /// What kind of mapping it is, by its name and inode.
    #[must_use]
    pub fn kind(&self) -> MappingKind {
        match &*self.path {
            b"[vdso]" => MappingKind::Vdso,
            b"[vsyscall]" => MappingKind::Vsyscall,
            // Shared anonymous memory has an inode of its own and a path that nobody gave it.
            path if path.starts_with(b"//anon")
                || path.starts_with(b"/anon_hugepage")
                || path.starts_with(b"/SYSV")
                || (path == b"/dev/zero" && self.deleted) =>
            {
                MappingKind::Anonymous
            }
            path if path.starts_with(b"/") && self.file.inode != 0 => MappingKind::File,
            _ => MappingKind::Anonymous,
        }
    }
}

impl Process {
    /// All mappings. This is no snapshot: the rows are consistent within a page of text only, and
    /// ascending.
    ///
    /// # Errors
    /// The error of reading `/proc/PID/maps`; `ESRCH` once the process is gone.
    pub fn maps(&self) -> io::Result<Maps> {
        self.read_maps(|_| true)
    }

    /// The mappings that may be executed; see [`Process::maps`].
    ///
    /// # Errors
    /// As [`Process::maps`].
    pub fn exec_maps(&self) -> io::Result<Maps> {
        self.read_maps(|perms| perms == b'x')
    }

    fn read_maps(&self, keep: impl Fn(u8) -> bool) -> io::Result<Maps> {
        let thread = self.memory_thread();
        let file = if thread == self.pid() {
            self.dir.open_file("maps")?
        } else {
            self.dir.open_file(&format!("task/{thread}/maps"))?
        };
        parse_maps(file, keep)
    }
}

fn parse_maps(file: File, keep: impl Fn(u8) -> bool) -> io::Result<Maps> {
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut out = Maps::default();
    let mut line = Vec::new();
    for _ in 0..MAX_ROWS {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(out);
        }
        out.read += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        // The access is looked at before the path is copied: most rows are not executable.
        let execute = line.iter().position(|b| *b == b' ').and_then(|i| line.get(i + 3));
        if execute.is_some_and(|x| !keep(*x)) {
            continue;
        }
        match MapRow::parse(line) {
            Some(row) => out.rows.push(row),
            None => out.malformed += 1,
        }
    }
    out.truncated = true;
    Ok(out)
}

/// Removes the kernel's ` (deleted)` from a path.
pub(crate) fn strip_deleted(mut path: Vec<u8>) -> (Vec<u8>, bool) {
    const MARK: &[u8] = b" (deleted)";
    let deleted = path.ends_with(MARK);
    if deleted {
        path.truncate(path.len() - MARK.len());
    }
    (path, deleted)
}

/// The kernel escapes the newline in this file, as `\012`, and nothing else: not the backslash
/// (fs/proc/task_mmu.c: `seq_path(m, path, "\n")`). A name that really holds `\012` comes out
/// wrong; the check of the inode then finds that the file is another one.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = bytes.iter().position(|b| *b == at)?;
    Some((&bytes[..i], &bytes[i + 1..]))
}

fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, b| {
        let digit = char::from(*b).to_digit(16)?;
        Some(n << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_apart() {
        let row = MapRow::parse(
            b"7f0000001000-7f0000003000 r-xp 00002000 fe:01 4242                       /a b\\012c (deleted)",
        )
        .unwrap();
        assert_eq!((row.start, row.end), (Avma(0x7f00_0000_1000), Avma(0x7f00_0000_3000)));
        assert_eq!(row.offset, FileOffset(0x2000));
        assert_eq!(row.file, FileId { major: 0xfe, minor: 1, inode: 4242 });
        assert_eq!(&*row.path, b"/a b\nc");
        assert!(row.deleted && row.perms.execute && row.perms.read && !row.perms.write);
        assert_eq!(row.kind(), MappingKind::File);
    }

    #[test]
    fn names_of_the_kernel_are_no_files() {
        let kind = |line: &[u8]| MapRow::parse(line).unwrap().kind();
        assert_eq!(kind(b"1000-2000 r-xp 00000000 00:00 0    [vdso]"), MappingKind::Vdso);
        assert_eq!(
            kind(b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]"),
            MappingKind::Vsyscall
        );
        assert_eq!(kind(b"1000-2000 rwxp 00000000 00:00 0"), MappingKind::Anonymous);
        assert_eq!(kind(b"1000-2000 rwxp 00000000 00:00 0 "), MappingKind::Anonymous);
        let shared = b"1000-2000 rwxs 00000000 00:01 77 /dev/zero (deleted)";
        assert_eq!(kind(shared), MappingKind::Anonymous);
        let memfd = b"1000-2000 r-xs 00000000 00:01 77 /memfd:jit (deleted)";
        assert_eq!(kind(memfd), MappingKind::File);
    }

    #[test]
    fn broken_rows_are_refused() {
        for line in [
            &b""[..],
            b"1000",
            b"1000-2000",
            b"2000-1000 r-xp 0 0:0 0",
            b"1000-1000 r-xp 0 0:0 0",
            b"11112222333344445-6 r-xp 0 0:0 0",
            b"1000-2000 r-x 0 0:0 0",
            b"1000-2000 r-xp 0 0 0",
            b"1000-2000 r-xp 0 0:0 x",
            b"1000-2000 r-xp 0 0:0 99999999999999999999999",
        ] {
            assert_eq!(MapRow::parse(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn an_event_that_wraps_around_is_refused() {
        let file = FileId { major: 0, minor: 0, inode: 0 };
        let row = |start, len| {
            let offset = FileOffset(0);
            MapRow::from_event(Avma(start), len, offset, Perms::default(), file, b"//anon")
        };
        assert!(row(u64::MAX - 10, 100).is_none());
        assert!(row(0x1000, 0).is_none());
        assert_eq!(row(0x1000, 0x1000).unwrap().end, Avma(0x2000));
    }
}

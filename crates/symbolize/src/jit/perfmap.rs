//! Parses perf maps: lines of `START SIZE NAME`, with hexadecimal numbers (Linux,
//! tools/perf/Documentation/jit-interface.txt).

use std::collections::BTreeMap;
use std::sync::Arc;

use image::Avma;

use super::{JitFunction, split_name};

/// Limit of functions; no program has as many at a time.
const MAX_ENTRIES: usize = 1 << 20;
/// Limit of all names together, in bytes.
const MAX_TEXT: usize = 96 << 20;
/// Limit of a line, in bytes; longer ones are malformed.
const MAX_LINE: usize = 16 << 10;
/// Limit of the size of a function, in bytes.
const MAX_SIZE: u64 = 1 << 30;

#[derive(Debug, Clone, Copy)]
struct Entry {
    end: u64,
    name_at: u32,
    name_len: u32,
}

/// The functions in a perf map. A line replaces the functions that it overlaps, whose code is gone.
#[derive(Debug, Default)]
pub struct PerfMap {
    by_start: BTreeMap<u64, Entry>,
    text: Vec<u8>,
    /// The start of a line whose end was not fed yet.
    partial: Vec<u8>,
    /// Whether the rest of the line is skipped, since it is too long.
    skipping: bool,
    malformed: u64,
    left_out: u64,
}

impl PerfMap {
    /// Parses what was appended to the file, which may end within a line.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if std::mem::take(&mut self.skipping) || self.partial.len() + line.len() > MAX_LINE {
                self.partial.clear();
                self.malformed += 1;
            } else if self.partial.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole);
            }
        }
        if self.skipping || self.partial.len() + bytes.len() > MAX_LINE {
            self.partial.clear();
            self.skipping = true;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Skips the rest of a line: what is fed next starts within it.
    pub fn skip_line(&mut self) {
        self.skipping = true;
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return;
        }
        let Some((start, size, name)) = parse(line) else {
            self.malformed += 1;
            return;
        };
        if size == 0 || size > MAX_SIZE {
            return;
        }
        let Some(end) = start.checked_add(size) else {
            self.malformed += 1;
            return;
        };
        self.forget(start, end);
        if self.by_start.len() >= MAX_ENTRIES || self.text.len() + name.len() > MAX_TEXT {
            self.left_out += 1;
            return;
        }
        let entry = Entry { end, name_at: self.text.len() as u32, name_len: name.len() as u32 };
        self.text.extend_from_slice(name);
        self.by_start.insert(start, entry);
    }

    fn forget(&mut self, start: u64, end: u64) {
        let before = self.by_start.range(..start).next_back();
        if let Some(key) = before.filter(|(_, e)| e.end > start).map(|(s, _)| *s) {
            self.by_start.remove(&key);
        }
        while let Some(key) = self.by_start.range(start..end).next().map(|(s, _)| *s) {
            self.by_start.remove(&key);
        }
    }

    /// The function at an address.
    #[must_use]
    pub fn find(&self, addr: Avma) -> Option<JitFunction> {
        let (_, entry) = self.by_start.range(..=addr.0).next_back()?;
        if addr.0 >= entry.end {
            return None;
        }
        let bytes = self.text.get(entry.name_at as usize..)?.get(..entry.name_len as usize)?;
        let raw = String::from_utf8_lossy(bytes);
        let split = split_name(&raw);
        Some(JitFunction {
            name: split.function.into(),
            raw: Arc::from(&*raw),
            file: split.file.map(Into::into),
            line: 0,
            start_line: split.line,
        })
    }

    /// The number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether there are no functions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// The number of malformed lines.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The number of lines that were dropped because a limit was reached.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (start, rest) = number(line)?;
    let (size, name) = number(rest)?;
    (!name.is_empty()).then_some((start, size, name))
}

/// A hexadecimal number, with or without `0x` (.NET and some agents write it), up to a space.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let digits = text.iter().position(|b| *b == b' ')?;
    let (digits, rest) = text.split_at(digits);
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let value = digits
        .iter()
        .try_fold(0u64, |n, b| Some(n << 4 | u64::from(char::from(*b).to_digit(16)?)))?;
    Some((value, &rest[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(map: &PerfMap, at: u64) -> Option<String> {
        map.find(Avma(at)).map(|f| f.name.to_string())
    }

    #[test]
    fn maps_can_be_fed_in_any_pieces() {
        let text = b"1000 20 JS:*hot /a.js:1:2\n1020 10 plain name\n0x2000 5 dotnet\n";
        for cut in 0..text.len() {
            let mut map = PerfMap::default();
            map.feed(&text[..cut]);
            map.feed(&text[cut..]);
            assert_eq!(name(&map, 0x101f).as_deref(), Some("hot"));
            assert_eq!(name(&map, 0x1020).as_deref(), Some("plain name"));
            assert_eq!(name(&map, 0x2004).as_deref(), Some("dotnet"));
            assert_eq!((name(&map, 0x2005), name(&map, 0xfff)), (None, None));
            assert_eq!(map.malformed(), 0);
        }
    }

    #[test]
    fn later_code_replaces_earlier_code() {
        let mut map = PerfMap::default();
        map.feed(b"1000 100 old\n1100 100 kept\n1080 10 new\n");
        assert_eq!(name(&map, 0x1000), None, "partly overwritten");
        assert_eq!(name(&map, 0x1085).as_deref(), Some("new"));
        assert_eq!(name(&map, 0x1180).as_deref(), Some("kept"));
    }

    #[test]
    fn malformed_lines_are_counted_and_name_nothing() {
        let mut map = PerfMap::default();
        map.feed(b"root:x:0:0:root:/root:/bin/bash\n1000\n1000 \n1000 zz a\n 1 1 a\n");
        map.feed(b"ffffffffffffffff 2 wraps\n11111111111111111 1 long\n1000 0 empty\n\n");
        map.feed(&vec![b'1'; 100_000]);
        map.feed(b"\n2000 1 ok\n");
        assert_eq!(map.len(), 1);
        assert_eq!(name(&map, 0x2000).as_deref(), Some("ok"));
        assert_eq!(map.malformed(), 8);
    }
}

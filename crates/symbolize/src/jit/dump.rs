//! Parses jitdump files (Linux, tools/perf/Documentation/jitdump-specification.txt): a header, then
//! records of code, lines and moves, each with a time.
//!
//! The parser takes any pieces of the file, keeps at most one partial record, and skips the code
//! itself. The crate `linux-perf-data` also reads jitdumps, but is not made for hostile ones: see
//! docs/architecture.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::Avma;
use rustc_hash::FxHashMap;

use super::{JitFunction, split_name};

const MAGIC: u32 = 0x4a69_5444;
/// The flag for times from the CPU's timestamp counter instead of CLOCK_MONOTONIC.
const ARCH_TIMESTAMP: u64 = 1;

const CODE_LOAD: u32 = 0;
const CODE_MOVE: u32 = 1;
const CODE_DEBUG_INFO: u32 = 2;
const CODE_CLOSE: u32 = 3;

/// Magic, version, size, machine, padding, pid: u32; timestamp, flags: u64.
const HEADER: usize = 40;
/// `id`, `total_size`, `timestamp`.
const RECORD_HEADER: usize = 16;
/// Bytes that are read of a code record: its fields and its name, not the code.
const MAX_LOAD_HEAD: usize = RECORD_HEADER + 40 + 4096;
/// Limit of a debug record, in bytes; larger ones are skipped.
const MAX_DEBUG_INFO: usize = 4 << 20;
/// Limit of pieces of code, including earlier ones at the same address.
const MAX_CODES: usize = 1 << 20;
/// Limit of all line entries.
const MAX_LINES: usize = 4 << 20;
/// Limit of all names together, in bytes.
const MAX_TEXT: usize = 96 << 20;
/// V8's addresses of lines include the size of the ELF header that `perf inject` puts before the
/// code (src/diagnostics/perf-jit.cc).
const V8_LINE_BIAS: u64 = 0x40;

/// A piece of code, at its address from one time on.
#[derive(Debug, Clone)]
struct Code {
    from: u64,
    size: u64,
    name: Arc<str>,
    lines: Option<Arc<Lines>>,
    /// The address to which it was compiled, on which its lines are based.
    compiled_at: u64,
}

#[derive(Debug)]
struct Line {
    address: u64,
    line: u32,
    file: Arc<str>,
}

#[derive(Debug)]
struct Lines(Vec<Line>);

/// The functions in a jitdump, by address and time.
#[derive(Debug, Default)]
pub struct JitDump {
    header: Option<FileHeader>,
    refused: Option<&'static str>,
    pending: Vec<u8>,
    /// Bytes of the current record that are still to be skipped.
    skip: u64,
    /// By start address, each in the order of times.
    codes: BTreeMap<u64, Vec<Code>>,
    by_index: FxHashMap<u64, u64>,
    /// The lines of the next code record, with its start address.
    next_lines: Option<(u64, Arc<Lines>)>,
    largest: u64,
    count: usize,
    lines: usize,
    text: usize,
    left_out: u64,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct FileHeader {
    timed: bool,
}

impl JitDump {
    /// Parses what was appended to the file, which may end anywhere.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.refused.is_none() && !self.closed {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[skipped..];
            self.skip -= skipped as u64;
            if self.skip > 0 || bytes.is_empty() && self.pending.is_empty() {
                return;
            }
            let needed = self.needed();
            let missing = needed.saturating_sub(self.pending.len());
            let taken = missing.min(bytes.len());
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.pending.len() < needed {
                return;
            }
            if self.needed() <= self.pending.len() {
                self.step();
            }
        }
    }

    /// The number of bytes that the caller need not read: they count as fed from now on.
    pub fn pass_over(&mut self) -> u64 {
        std::mem::take(&mut self.skip)
    }

    /// The number of pending bytes that the next step needs.
    fn needed(&self) -> usize {
        if self.header.is_none() {
            return HEADER;
        }
        match (word32(&self.pending, 0), word32(&self.pending, 4)) {
            (Some(id), Some(size)) => {
                let size = (size as usize).max(RECORD_HEADER);
                match id {
                    CODE_LOAD | CODE_MOVE => size.min(MAX_LOAD_HEAD),
                    CODE_DEBUG_INFO if size <= MAX_DEBUG_INFO => size,
                    _ => RECORD_HEADER,
                }
            }
            _ => RECORD_HEADER,
        }
    }

    fn step(&mut self) {
        let bytes = std::mem::take(&mut self.pending);
        if self.header.is_none() {
            match parse_header(&bytes) {
                Ok((header, size)) => {
                    self.header = Some(header);
                    self.skip = u64::from(size).saturating_sub(HEADER as u64);
                }
                Err(why) => self.refuse(why),
            }
            return;
        }
        let (Some(id), Some(size)) = (word32(&bytes, 0), word32(&bytes, 4)) else { return };
        if (size as usize) < RECORD_HEADER {
            // The start of the next record is unknown.
            self.refuse("a record is shorter than its header");
            return;
        }
        self.skip = u64::from(size).saturating_sub(bytes.len() as u64);
        let time = word64(&bytes, 8).unwrap_or(0);
        let body = &bytes[RECORD_HEADER..];
        match id {
            CODE_LOAD => self.load(time, body),
            CODE_MOVE => self.moved(time, body),
            CODE_DEBUG_INFO => self.debug_info(body),
            CODE_CLOSE => self.closed = true,
            _ => {}
        }
    }

    fn refuse(&mut self, why: &'static str) {
        tracing::debug!(why, codes = self.count, "rejected a jitdump");
        self.refused = Some(why);
    }

    /// pid, tid: u32; vma, address, size, index: u64; the name; the code.
    fn load(&mut self, time: u64, body: &[u8]) {
        let field = |n: usize| word64(body, 8 + 8 * n);
        let (Some(start), Some(size), Some(index)) = (field(1), field(2), field(3)) else { return };
        let Some(name) = body.get(40..).map(until_nul) else { return };
        let lines = self.next_lines.take().filter(|(at, _)| *at == start).map(|(_, lines)| lines);
        if self.text + name.len() > MAX_TEXT {
            self.left_out += 1;
            return;
        }
        self.text += name.len();
        let name: Arc<str> = String::from_utf8_lossy(name).into();
        let code = Code { from: time, size, name, lines, compiled_at: start };
        self.by_index.insert(index, start);
        self.insert(start, code);
    }

    /// pid, tid: u32; vma, old address, new address, size, index: u64.
    fn moved(&mut self, time: u64, body: &[u8]) {
        let field = |n: usize| word64(body, 8 + 8 * n);
        let (Some(old), Some(new), Some(index)) = (field(1), field(2), field(4)) else { return };
        let at = self.by_index.get(&index).copied().unwrap_or(old);
        let last = self.codes.get(&at).and_then(|codes| codes.last()).cloned();
        if let Some(code) = last {
            self.by_index.insert(index, new);
            self.insert(new, Code { from: time, ..code });
        }
    }

    fn insert(&mut self, start: u64, code: Code) {
        if self.count >= MAX_CODES || start.checked_add(code.size).is_none() {
            self.left_out += 1;
            return;
        }
        self.count += 1;
        self.largest = self.largest.max(code.size);
        self.codes.entry(start).or_default().push(code);
    }

    /// address, count: u64; then for each entry address: u64, line, discriminator: u32, the file.
    fn debug_info(&mut self, body: &[u8]) {
        let (Some(start), Some(count)) = (word64(body, 0), word64(body, 8)) else { return };
        let mut rest = body.get(16..).unwrap_or_default();
        let mut lines: Vec<Line> = Vec::new();
        for _ in 0..count {
            let (Some(address), Some(line)) = (word64(rest, 0), word32(rest, 8)) else { break };
            let Some(name) = rest.get(16..).map(until_nul) else { break };
            if self.lines >= MAX_LINES {
                self.left_out += 1;
                break;
            }
            self.lines += 1;
            rest = rest.get(16 + name.len() + 1..).unwrap_or_default();
            // "\xff" stands for the name of the entry before.
            let file = match (name, lines.last()) {
                (b"\xff", Some(last)) => last.file.clone(),
                _ => String::from_utf8_lossy(name).into(),
            };
            lines.push(Line { address, line, file });
        }
        lines.sort_by_key(|l| l.address);
        self.next_lines = Some((start, Arc::new(Lines(lines))));
    }

    /// The function at an address at a time (CLOCK_MONOTONIC, in nanoseconds). If the file's times
    /// are of another clock, the last function at the address.
    #[must_use]
    pub fn find(&self, addr: Avma, time: u64) -> Option<JitFunction> {
        let timed = self.header?.timed;
        let lowest = addr.0.saturating_sub(self.largest);
        // The last code before the time has overwritten what it overlaps.
        let mut found: Option<(u64, &Code)> = None;
        for (start, codes) in self.codes.range(lowest..=addr.0).rev().take(4096) {
            let holds = |c: &&Code| addr.0 - start < c.size && (!timed || c.from <= time);
            if let Some(code) = codes.iter().rev().find(holds)
                && found.is_none_or(|(_, best)| best.from < code.from)
            {
                found = Some((*start, code));
            }
        }
        let (start, code) = found?;
        Some(code.function(addr.0 - start))
    }

    /// Why the file was rejected, if it was. What was read before remains.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        self.refused
    }

    /// The number of pieces of code and lines that were dropped because a limit was reached.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The number of pieces of code.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no code.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Code {
    fn function(&self, offset: u64) -> JitFunction {
        let split = split_name(&self.name);
        let is_v8 = split.line > 0;
        let at = self.compiled_at.wrapping_add(offset);
        let at = if is_v8 { at.wrapping_add(V8_LINE_BIAS) } else { at };
        let line = self.lines.as_ref().and_then(|lines| {
            let next = lines.0.partition_point(|l| l.address <= at);
            lines.0.get(next.checked_sub(1)?)
        });
        let of_line = line.map(|l| l.file.clone()).filter(|f| !f.is_empty());
        JitFunction {
            name: split.function.into(),
            raw: self.name.clone(),
            // For code that was inlined from another file the line in the function's file is
            // unknown.
            line: match (line, split.file) {
                (Some(l), Some(file)) if !l.file.ends_with(file) => 0,
                (Some(l), _) => l.line,
                (None, _) => 0,
            },
            file: split.file.map(Into::into).or(of_line),
            start_line: split.line,
        }
    }
}

/// The header, and its size according to itself.
fn parse_header(bytes: &[u8]) -> Result<(FileHeader, u32), &'static str> {
    if word32(bytes, 0) != Some(MAGIC) {
        return Err("not a jitdump of this byte order");
    }
    if word32(bytes, 4) != Some(1) {
        return Err("unknown version of jitdump");
    }
    let flags = word64(bytes, 32).ok_or("the header is too short")?;
    let size = word32(bytes, 8).ok_or("the header is too short")?;
    Ok((FileHeader { timed: flags & ARCH_TIMESTAMP == 0 }, size))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u64) -> Vec<u8> {
        let mut b = Vec::new();
        for word in [MAGIC, 1, 40, 62, 0, 7] {
            b.extend(word.to_le_bytes());
        }
        b.extend(0u64.to_le_bytes());
        b.extend(flags.to_le_bytes());
        b
    }

    fn record(id: u32, time: u64, body: &[u8]) -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(id.to_le_bytes());
        b.extend((16 + body.len() as u32).to_le_bytes());
        b.extend(time.to_le_bytes());
        b.extend(body);
        b
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn load(time: u64, start: u64, size: u64, index: u64, name: &str) -> Vec<u8> {
        let mut body = words(&[7 | 7 << 32, start, start, size, index]);
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(vec![0x90; size as usize]);
        record(CODE_LOAD, time, &body)
    }

    fn name(dump: &JitDump, at: u64, time: u64) -> Option<String> {
        dump.find(Avma(at), time).map(|f| f.name.to_string())
    }

    fn sample(flags: u64) -> Vec<u8> {
        let mut lines = words(&[0x1000, 2, 0x1000]);
        lines.extend([5u32, 0].iter().flat_map(|w| w.to_le_bytes()));
        lines.extend(b"a.c\0");
        lines.extend(0x1010u64.to_le_bytes());
        lines.extend([9u32, 0].iter().flat_map(|w| w.to_le_bytes()));
        lines.extend(b"\xff\0");
        [
            header(flags),
            record(CODE_DEBUG_INFO, 9, &lines),
            load(10, 0x1000, 0x20, 1, "first"),
            record(99, 11, &[1, 2, 3]),
            load(20, 0x1010, 0x10, 2, "second"),
            record(CODE_MOVE, 30, &words(&[7, 0x5000, 0x1000, 0x5000, 0x20, 1])),
        ]
        .concat()
    }

    #[test]
    fn finds_code_by_address_and_time() {
        let bytes = sample(0);
        for cut in 0..bytes.len() {
            let mut dump = JitDump::default();
            dump.feed(&bytes[..cut]);
            dump.feed(&bytes[cut..]);
            assert_eq!(dump.refused(), None);
            assert_eq!(name(&dump, 0x1010, 5), None, "not compiled yet");
            assert_eq!(name(&dump, 0x1010, 15).as_deref(), Some("first"));
            assert_eq!(name(&dump, 0x1010, 25).as_deref(), Some("second"));
            assert_eq!(name(&dump, 0x1008, 25).as_deref(), Some("first"));
            assert_eq!(name(&dump, 0x5010, 25), None);
            let moved = dump.find(Avma(0x5010), 30).unwrap();
            assert_eq!(
                (&*moved.name, moved.line, moved.file.as_deref()),
                ("first", 9, Some("a.c"))
            );
            assert_eq!(dump.find(Avma(0x100f), 15).unwrap().line, 5);
        }
    }

    #[test]
    fn times_of_another_clock_are_not_compared() {
        let mut dump = JitDump::default();
        dump.feed(&sample(ARCH_TIMESTAMP));
        assert_eq!(name(&dump, 0x1010, 1).as_deref(), Some("second"));
    }

    #[test]
    fn damaged_files_are_rejected() {
        let mut dump = JitDump::default();
        dump.feed(b"not a jitdump at all, whatever it is called by its owner");
        assert!(dump.refused().is_some());
        let mut dump = JitDump::default();
        let mut bytes = header(0);
        bytes.extend(record(CODE_LOAD, 1, &[0; 3]));
        bytes.extend([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        dump.feed(&bytes);
        assert!(dump.refused().is_some());
        assert_eq!(dump.len(), 0);
    }
}

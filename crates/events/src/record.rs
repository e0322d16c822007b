//! Parses the records of perf rings (perf_event_open(2), "MMAP layout").
//!
//! The layout depends on `sample_type`; all events of a [`crate::Sampler`] share one.

use perf_event_open_sys::bindings as b;

/// A run of little-endian 64-bit words inside a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The words in `bytes`; an incomplete last word is ignored.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The words in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.0.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunk of 8")))
    }

    /// How many words there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len() / 8
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub time: u64,
    /// The process (thread group), in our PID namespace; 0 while it is exiting.
    pub pid: i32,
    /// The thread, in our PID namespace.
    pub tid: i32,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum EventKind<'a> {
    /// A sample of a running thread.
    Sample(Sample<'a>),
    /// An executable mapping was made.
    Mmap(MmapEvent<'a>),
    /// A thread changed its name, or executed a program.
    Comm(Comm<'a>),
    /// A thread or process was created.
    Fork(Fork),
    /// A thread ended.
    Exit(Fork),
    /// Records were lost: the ring had no space.
    Lost {
        /// How many, samples and others together.
        count: u64,
    },
    /// The thread was switched in or out.
    Switch {
        /// Switched out, not in.
        out: bool,
        /// Switched out although it could run: it only waits for a CPU.
        preempted: bool,
    },
    /// The kernel paused sampling on this CPU because it took too much time.
    Throttle,
    /// The kernel resumed sampling on this CPU.
    Unthrottle,
    /// Another kind of record.
    Other,
}

/// A sample.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample<'a> {
    /// Events counted since the last sample; 0 where the period is fixed.
    pub period: u64,
    /// The kernel's call chain, innermost first, with `PERF_CONTEXT_*` markers in it.
    pub callchain: Words<'a>,
    /// The data that a BPF program wrote with it.
    pub raw: &'a [u8],
    /// User registers in the order of [`crate::USER_REGISTERS`]; empty where the thread has no
    /// user context (it is exiting, or in exec).
    pub registers: Words<'a>,
    /// Whether the registers are those of a 32-bit task.
    pub abi_32: bool,
    /// The bytes from the stack pointer upwards, as far as they could be copied.
    pub stack: &'a [u8],
    /// The copy ends because of its size limit, not at the end of the stack.
    pub stack_full: bool,
}

/// An executable mapping.
#[derive(Debug, Clone, Copy)]
pub struct MmapEvent<'a> {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Device.
    pub major: u32,
    /// Device.
    pub minor: u32,
    /// Inode.
    pub inode: u64,
    /// Path as the target sees it, or `//anon`, `[vdso]` and the like.
    pub path: &'a [u8],
}

/// A new name.
#[derive(Debug, Clone, Copy)]
pub struct Comm<'a> {
    /// The name was set by exec: the address space is new.
    pub exec: bool,
    /// Up to 15 bytes.
    pub name: &'a [u8],
}

/// A thread's beginning or end.
#[derive(Debug, Clone, Copy)]
pub struct Fork {
    /// Its process.
    pub pid: i32,
    /// Its thread ID.
    pub tid: i32,
    /// The creator's process.
    pub parent_pid: i32,
    /// The creator's thread ID.
    pub parent_tid: i32,
}

/// How the records of a sampler are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub sample_type: u64,
    /// Registers in a sample.
    pub registers: usize,
    /// `sample_stack_user`: a copy of that many bytes may have been cut.
    pub stack_bytes: u32,
}

impl Layout {
    /// The layout of events whose samples have the registers of [`crate::USER_REGISTERS`].
    pub fn new(sample_type: u64, stack_bytes: u32) -> Self {
        let registers = crate::USER_REGISTERS.count_ones() as usize;
        Self { sample_type, registers, stack_bytes }
    }

    fn has(self, bit: u32) -> bool {
        self.sample_type & u64::from(bit) != 0
    }
}

/// A cursor over a record's body. Every read is checked: a torn or foreign record must not crash
/// the profiler.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn pair(&mut self) -> Option<(i32, i32)> {
        Some((self.u32()?.cast_signed(), self.u32()?.cast_signed()))
    }

    fn words(&mut self, n: usize) -> Option<Words<'a>> {
        self.bytes(n.checked_mul(8)?).map(Words)
    }
}

/// The TID and TIME words of a record: at the front of a sample, at the end of all others
/// (`sample_id_all`).
fn identity(layout: Layout, kind: u32, body: &[u8]) -> Option<(i32, i32, u64)> {
    debug_assert!(layout.has(b::PERF_SAMPLE_TID) && layout.has(b::PERF_SAMPLE_TIME));
    let at = if kind == b::PERF_RECORD_SAMPLE { 0 } else { body.len().checked_sub(16)? };
    let mut c = Cursor(body.get(at..)?);
    let (pid, tid) = c.pair()?;
    Some((pid, tid, c.u64()?))
}

/// The time of a record, for ordering it among those of other CPUs.
pub(crate) fn time_of(layout: Layout, kind: u32, body: &[u8]) -> Option<u64> {
    identity(layout, kind, body).map(|(_, _, time)| time)
}

/// Parses a record's body; `None` where it does not have the layout that its header implies.
pub(crate) fn parse(layout: Layout, kind: u32, misc: u16, body: &[u8]) -> Option<Event<'_>> {
    let (pid, tid, time) = identity(layout, kind, body)?;
    let mut c = Cursor(body);
    let kind = match kind {
        b::PERF_RECORD_SAMPLE => {
            c.bytes(16)?;
            EventKind::Sample(parse_sample(layout, &mut c)?)
        }
        b::PERF_RECORD_MMAP2 => EventKind::Mmap(parse_mmap2(&mut c)?),
        b::PERF_RECORD_COMM => {
            c.pair()?;
            let exec = misc & b::PERF_RECORD_MISC_COMM_EXEC as u16 != 0;
            EventKind::Comm(Comm { exec, name: until_nul(c.0) })
        }
        b::PERF_RECORD_FORK => EventKind::Fork(parse_fork(&mut c)?),
        b::PERF_RECORD_EXIT => EventKind::Exit(parse_fork(&mut c)?),
        b::PERF_RECORD_LOST => {
            c.u64()?;
            EventKind::Lost { count: c.u64()? }
        }
        b::PERF_RECORD_SWITCH => EventKind::Switch {
            out: u32::from(misc) & b::PERF_RECORD_MISC_SWITCH_OUT != 0,
            preempted: u32::from(misc) & b::PERF_RECORD_MISC_SWITCH_OUT_PREEMPT != 0,
        },
        b::PERF_RECORD_THROTTLE => EventKind::Throttle,
        b::PERF_RECORD_UNTHROTTLE => EventKind::Unthrottle,
        _ => EventKind::Other,
    };
    Some(Event { time, pid, tid, kind })
}

fn parse_sample<'a>(layout: Layout, c: &mut Cursor<'a>) -> Option<Sample<'a>> {
    let mut s = Sample::default();
    if layout.has(b::PERF_SAMPLE_PERIOD) {
        s.period = c.u64()?;
    }
    if layout.has(b::PERF_SAMPLE_CALLCHAIN) {
        let n = usize::try_from(c.u64()?).ok()?;
        s.callchain = c.words(n)?;
    }
    if layout.has(b::PERF_SAMPLE_RAW) {
        let n = usize::try_from(c.u32()?).ok()?;
        s.raw = c.bytes(n)?;
    }
    if layout.has(b::PERF_SAMPLE_REGS_USER) {
        let abi = c.u64()?;
        if abi != u64::from(b::PERF_SAMPLE_REGS_ABI_NONE) {
            s.registers = c.words(layout.registers)?;
            s.abi_32 = abi == u64::from(b::PERF_SAMPLE_REGS_ABI_32);
        }
    }
    if layout.has(b::PERF_SAMPLE_STACK_USER) {
        let size = usize::try_from(c.u64()?).ok()?;
        if size > 0 {
            let data = c.bytes(size)?;
            let dynamic = usize::try_from(c.u64()?).ok()?;
            s.stack = data.get(..dynamic)?;
            s.stack_full = dynamic == size;
        }
    }
    debug_assert!(layout.stack_bytes == 0 || s.stack.len() <= layout.stack_bytes as usize);
    Some(s)
}

fn parse_mmap2<'a>(c: &mut Cursor<'a>) -> Option<MmapEvent<'a>> {
    c.pair()?;
    let (start, len, offset) = (c.u64()?, c.u64()?, c.u64()?);
    let (major, minor) = (c.u32()?, c.u32()?);
    let inode = c.u64()?;
    let _generation = c.u64()?;
    let _protection_and_flags = c.u64()?;
    Some(MmapEvent { start, len, offset, major, minor, inode, path: until_nul(c.0) })
}

fn parse_fork(c: &mut Cursor<'_>) -> Option<Fork> {
    let (pid, parent_pid) = c.pair()?;
    let (tid, parent_tid) = c.pair()?;
    Some(Fork { pid, tid, parent_pid, parent_tid })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|c| *c == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let sample_type = crate::attr::sample_type(crate::ClockSource::CpuClock, true);
        Layout { sample_type, registers: 2, stack_bytes: 16 }
    }

    fn body(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn a_sample_is_parsed() {
        let who = 7 | (8 << 32);
        let b = body(&[who, 99, 1, 0xffff_8000, 2, 11, 12, 16, 21, 22, 8]);
        let e = parse(layout(), b::PERF_RECORD_SAMPLE, 0, &b).unwrap();
        assert_eq!((e.pid, e.tid, e.time), (7, 8, 99));
        let EventKind::Sample(s) = e.kind else { panic!("{e:?}") };
        assert_eq!(s.callchain.iter().collect::<Vec<_>>(), [0xffff_8000]);
        assert_eq!(s.registers.iter().collect::<Vec<_>>(), [11, 12]);
        assert_eq!(s.stack, 21u64.to_le_bytes());
        assert!(!s.stack_full, "8 of 16 bytes: the stack's memory ended");
    }

    #[test]
    fn every_truncation_of_a_record_is_rejected_or_harmless() {
        let b = body(&[7, 99, 1, 5, 2, 11, 12, 16, 21, 22, 8]);
        for kind in 0..22 {
            for n in 0..b.len() {
                let _ = parse(layout(), kind, 0, &b[..n]);
            }
        }
        let lying = body(&[7, 99, u64::MAX, 5]);
        assert!(parse(layout(), b::PERF_RECORD_SAMPLE, 0, &lying).is_none());
    }

    #[test]
    fn a_name_set_by_exec_is_recognised() {
        let mut b = body(&[7 | (8 << 32)]);
        b.extend(b"redis\0\0\0");
        b.extend(body(&[7 | (8 << 32), 5]));
        let e = parse(layout(), b::PERF_RECORD_COMM, b::PERF_RECORD_MISC_COMM_EXEC as u16, &b);
        let EventKind::Comm(c) = e.unwrap().kind else { panic!() };
        assert_eq!((c.exec, c.name), (true, &b"redis"[..]));
    }
}

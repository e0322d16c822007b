//! What will be gone when a sample of a Go program is read: the stack of the goroutine where its
//! thread runs on another one, and the goroutine's labels. A BPF program (`bpf/goroutine.bpf.c`)
//! copies them as the sample is taken.
//!
//! ```text
//!  sampling event fires ─► BPF program: thread's m ─► m.curg ─► stack, labels ─► ring of captures
//!                     └──► the sample itself ─────────────────────────────────► ring of the CPU
//! ```
//!
//! The two are matched by thread and time: a sample is written right after its capture.

use std::collections::BTreeMap;
use std::io;

use aya::maps::{Array, HashMap, MapData, ProgramArray, RingBuf};
use aya::programs::PerfEvent;
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};

use crate::SampleProgram;

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = include_bytes_aligned!("../bpf/goroutine.x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = include_bytes_aligned!("../bpf/goroutine.aarch64.o");

/// Threads that can be known at the same time (`max_entries` of the map).
const MAX_THREADS: usize = 16_384;
/// Room for a label's key and value (`MAX_KEY`, `MAX_VALUE`).
const KEY: usize = 64;
const VALUE: usize = 128;
/// `size_t` that could not be read.
const UNREADABLE: u64 = u64::MAX;

/// Why goroutines cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Loading BPF programs needs CAP_BPF and CAP_PERFMON, and a kernel that has ring buffers
    /// for them (5.8).
    #[error("the kernel does not load the program that reads goroutines: {0}")]
    Load(String),
    /// The events do not take it.
    #[error("the program that reads goroutines cannot be attached: {0}")]
    Attach(#[from] io::Error),
}

impl From<EbpfError> for CaptureError {
    fn from(e: EbpfError) -> Self {
        Self::Load(one_line(&e))
    }
}

/// An error with its causes, cut to what a line holds: the verifier's account is long.
fn one_line(e: &dyn std::error::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string) {
        // Some repeat their cause's words.
        if !causes.last().is_some_and(|last| last.ends_with(&cause)) {
            causes.push(cause);
        }
    }
    let text = causes.join(": ");
    let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    if line.contains("os error 1)") {
        return format!("{line}; CAP_BPF and CAP_PERFMON permit it");
    }
    line
}

/// Where the fields of the runtime's types lie, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the runtime's fields")]
pub struct FieldOffsets {
    pub m_procid: u32,
    pub m_g0: u32,
    pub m_gsignal: u32,
    pub m_curg: u32,
    pub m_vdso_sp: u32,
    pub m_vdso_pc: u32,
    pub g_sched_sp: u32,
    pub g_sched_pc: u32,
    pub g_goid: u32,
    pub g_labels: u32,
}

/// A thread of a Go program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoThread {
    /// The address of its `runtime.m`.
    pub m: u64,
    /// `m.procid`, by which an `m` that is used again is noticed.
    pub procid: u64,
    /// The layout of its Go version.
    pub offsets: FieldOffsets,
    /// Labels are a map (before Go 1.24), not a slice.
    pub labels_are_a_map: bool,
    /// The program holds C code, which may have called back into Go.
    pub has_cgo: bool,
}

impl GoThread {
    /// `struct thread` of the BPF program.
    fn encode(&self) -> [u8; 64] {
        let o = &self.offsets;
        let flags = u32::from(self.labels_are_a_map) | u32::from(self.has_cgo) << 1;
        let small = [
            o.m_procid,
            o.m_g0,
            o.m_gsignal,
            o.m_curg,
            o.m_vdso_sp,
            o.m_vdso_pc,
            o.g_sched_sp,
            o.g_sched_pc,
            o.g_goid,
            o.g_labels,
            flags,
            0,
        ];
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&self.m.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.procid.to_le_bytes());
        for (at, word) in bytes[16..].chunks_exact_mut(4).zip(small) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A copied piece of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StackCopy {
    /// Where it begins.
    pub start: u64,
    /// What is there.
    pub bytes: Vec<u8>,
}

/// Profiler labels as they were when the sample was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapturedLabels {
    /// Keys and values, in no order.
    pub labels: Vec<(String, String)>,
    /// Some are missing or cut.
    pub incomplete: bool,
}

/// What was captured with one sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// The thread.
    pub tid: i32,
    /// CLOCK_MONOTONIC in nanoseconds, shortly before the sample's.
    pub time: u64,
    /// The interrupted program counter: in the kernel, if that was interrupted.
    pub pc: u64,
    /// The interrupted stack pointer, likewise.
    pub sp: u64,
    /// The address of the goroutine that the thread works for; 0 for none.
    pub g: u64,
    /// Its number.
    pub goid: u64,
    /// The bounds of its stack.
    pub stack_bounds: (u64, u64),
    /// `g.sched.sp` and `.pc`: where the goroutine left its stack, if the thread is on another.
    pub sched: (u64, u64),
    /// `m.vdsoSP` and `m.vdsoPC`: where the vdso was called from, if that is running.
    pub vdso: (u64, u64),
    /// `m.g0.sched.sp`: where the thread left its system stack.
    pub system_sp: u64,
    /// The used part of the goroutine's stack, if the thread is not on it.
    pub stack: StackCopy,
    /// The stack is longer than what could be copied.
    pub stack_cut: bool,
    /// The system stack of a program with C code.
    pub system_stack: StackCopy,
    /// `g.labels`: 0 for none.
    pub labels_at: u64,
    /// The labels; `None` if there are none, or their capture found no room.
    pub labels: Option<CapturedLabels>,
}

/// The loaded program and its maps.
pub struct GoroutineCapture {
    ebpf: Ebpf,
    threads: HashMap<MapData, u32, [u8; 64]>,
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    next: ProgramArray<MapData>,
    known: BTreeMap<i32, GoThread>,
}

impl std::fmt::Debug for GoroutineCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GoroutineCapture")
            .field("threads", &self.known.len())
            .finish_non_exhaustive()
    }
}

impl GoroutineCapture {
    /// Loads the program. It does nothing before events have it and threads are known to it.
    ///
    /// # Errors
    /// [`CaptureError::Load`]: no right to, or a kernel that cannot.
    pub fn load() -> Result<Self, CaptureError> {
        // It reads no structure of the kernel, whose types need not be looked through for it.
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT)?;
        let missing = |what: &str| CaptureError::Load(format!("{what} is not in the object"));
        let program = ebpf.program_mut("goroutine").ok_or_else(|| missing("the program"))?;
        let program: &mut PerfEvent =
            program.try_into().map_err(|e| CaptureError::Load(one_line(&e)))?;
        program.load().map_err(|e| CaptureError::Load(one_line(&e)))?;
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        let (threads, ring, lost) = (map("threads")?, map("captures")?, map("lost")?);
        let next = map("next")?;
        let bad = |e: aya::maps::MapError| CaptureError::Load(one_line(&e));
        Ok(Self {
            threads: HashMap::try_from(threads).map_err(bad)?,
            ring: RingBuf::try_from(ring).map_err(bad)?,
            lost: Array::try_from(lost).map_err(bad)?,
            next: ProgramArray::try_from(next).map_err(bad)?,
            ebpf,
            known: BTreeMap::new(),
        })
    }

    /// The program, to run with each sample.
    ///
    /// # Errors
    /// [`CaptureError`] when there is none.
    pub fn program(&self) -> Result<SampleProgram, CaptureError> {
        let program = self.ebpf.program("goroutine");
        let fd = program.and_then(|p| p.fd().ok());
        let fd = fd.ok_or_else(|| CaptureError::Load("it is not loaded".into()))?;
        Ok(SampleProgram::of(fd)?)
    }

    /// Runs `next` right after this program at the same samples, until this is dropped: an event
    /// takes one program only.
    ///
    /// # Errors
    /// [`CaptureError`]: the kernel refuses the tail call.
    pub fn then(&mut self, next: &SampleProgram) -> Result<(), CaptureError> {
        let set = self.next.set(0, next.loaded(), 0);
        set.map_err(|e| CaptureError::Load(one_line(&e)))
    }

    /// Makes a thread known, or replaces what was known of it. Gives whether there was room.
    pub fn watch(&mut self, tid: i32, thread: &GoThread) -> bool {
        if self.known.get(&tid) == Some(thread) {
            return true;
        }
        let room = self.known.len() < MAX_THREADS || self.known.contains_key(&tid);
        let done = room && self.threads.insert(tid.cast_unsigned(), thread.encode(), 0).is_ok();
        if done {
            self.known.insert(tid, *thread);
        }
        done
    }

    /// Forgets a thread.
    pub fn forget(&mut self, tid: i32) {
        if self.known.remove(&tid).is_some() {
            // Whether the kernel's map still had it makes no difference.
            let _ = self.threads.remove(&tid.cast_unsigned());
        }
    }

    /// Parts of captures that found no room in the ring.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).unwrap_or(0)
    }

    /// Hands out what has been captured, each thread's in the order of time.
    pub fn drain(&mut self, mut sink: impl FnMut(Part)) {
        while let Some(record) = self.ring.next() {
            if let Some(part) = parse(&record) {
                sink(part);
            }
        }
    }
}

/// A record of the ring: the first part of a capture, or one that belongs to the last of its
/// thread.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// The capture but for what may follow.
    Goroutine(Box<Capture>),
    /// [`Capture::system_stack`] of the capture of this thread and time.
    SystemStack(i32, u64, StackCopy),
    /// [`Capture::labels`] likewise.
    Labels(i32, u64, CapturedLabels),
}

impl Part {
    /// Adds itself to the capture that it belongs to.
    pub fn complete(self, capture: &mut Capture) {
        match self {
            Self::SystemStack(tid, time, copy) if (tid, time) == (capture.tid, capture.time) => {
                capture.system_stack = copy;
            }
            Self::Labels(tid, time, labels) if (tid, time) == (capture.tid, capture.time) => {
                capture.labels = Some(labels);
            }
            _ => {}
        }
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        match self {
            Self::Goroutine(c) => c.tid,
            Self::SystemStack(tid, ..) | Self::Labels(tid, ..) => *tid,
        }
    }
}

struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }

    fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    fn pair(&mut self) -> Option<(u64, u64)> {
        Some((self.u64()?, self.u64()?))
    }

    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
}

/// The records are those of `struct goroutine`, `system_stack` and `labels` of the program.
fn parse(record: &[u8]) -> Option<Part> {
    let mut w = Words(record);
    let kind = w.u32()?;
    let tid = w.u32()?.cast_signed();
    let time = w.u64()?;
    match kind {
        1 => {
            let (pc, sp) = w.pair()?;
            let (g, goid) = w.pair()?;
            let stack_bounds = w.pair()?;
            let sched = w.pair()?;
            let vdso = w.pair()?;
            let system_sp = w.u64()?;
            let labels_at = w.u64()?;
            let (start, length) = w.pair()?;
            let wanted = w.u64()?;
            let bytes = w.bytes(usize::try_from(length).ok()?)?.to_vec();
            let stack = StackCopy { start, bytes };
            let capture = Capture {
                tid,
                time,
                pc,
                sp,
                g,
                goid,
                stack_bounds,
                sched,
                vdso,
                system_sp,
                stack,
                labels_at,
                stack_cut: wanted > length,
                ..Capture::default()
            };
            Some(Part::Goroutine(Box::new(capture)))
        }
        2 => {
            let (start, length) = w.pair()?;
            let bytes = w.bytes(usize::try_from(length).ok()?)?.to_vec();
            Some(Part::SystemStack(tid, time, StackCopy { start, bytes }))
        }
        3 => Some(Part::Labels(tid, time, labels(&mut w)?)),
        _ => None,
    }
}

fn labels(w: &mut Words<'_>) -> Option<CapturedLabels> {
    let (count, copied) = w.pair()?;
    let mut all = CapturedLabels { labels: Vec::new(), incomplete: count != copied };
    for _ in 0..copied {
        let lengths = w.pair()?;
        let key = text(w.bytes(KEY)?, lengths.0, &mut all.incomplete);
        let value = text(w.bytes(VALUE)?, lengths.1, &mut all.incomplete);
        if let (Some(key), Some(value)) = (key, value) {
            all.labels.push((key, value));
        }
    }
    Some(all)
}

fn text(room: &[u8], length: u64, incomplete: &mut bool) -> Option<String> {
    let fits = usize::try_from(length).ok().and_then(|n| room.get(..n));
    *incomplete |= fits.is_none();
    if length == UNREADABLE {
        return None;
    }
    Some(String::from_utf8_lossy(fits.unwrap_or(room)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(kind: u32, rest: &[u64]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), 7u32.to_le_bytes()].concat();
        rest.iter().for_each(|w| bytes.extend(w.to_le_bytes()));
        bytes
    }

    #[test]
    fn parts_come_together() {
        let head = [99, 1, 2, 3, 4, 10, 20, 11, 12, 13, 14, 15, 16, 11, 8, 9, 0x55];
        let Some(Part::Goroutine(mut c)) = parse(&words(1, &head)) else { panic!() };
        assert_eq!((c.tid, c.time, c.pc, c.sp, c.g, c.goid), (7, 99, 1, 2, 3, 4));
        assert_eq!((c.stack_bounds, c.sched, c.vdso), ((10, 20), (11, 12), (13, 14)));
        assert_eq!((c.stack.start, c.stack.bytes.len(), c.stack_cut), (11, 8, true));
        assert!(c.labels_at == 16 && c.labels.is_none());
        parse(&words(2, &[99, 5, 8, 0x66])).unwrap().complete(&mut c);
        assert_eq!(c.system_stack.start, 5);
        parse(&words(2, &[98, 6, 8, 0x66])).unwrap().complete(&mut c);
        assert_eq!(c.system_stack.start, 5, "that of another time");
        let mut record = words(3, &[99, 2, 1, 1, 200]);
        record.extend([b'k'; KEY]);
        record.extend([b'v'; VALUE]);
        parse(&record).unwrap().complete(&mut c);
        let labels = c.labels.unwrap();
        assert!(labels.incomplete, "one of two, and cut");
        assert_eq!(labels.labels, [("k".into(), "v".repeat(VALUE))]);
    }

    #[test]
    fn a_cut_record_is_no_capture() {
        let whole = words(1, &[99, 1, 2, 3, 4, 10, 20, 11, 12, 13, 14, 15, 16, 11, 8, 9, 0x55]);
        for n in 0..whole.len() {
            assert_eq!(parse(&whole[..n]), None, "{n}");
        }
    }
}

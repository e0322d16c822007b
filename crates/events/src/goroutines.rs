//! Copies the stack and labels of a goroutine at the moment of a sample, with a BPF program
//! (`bpf/goroutine.bpf.c`).
//!
//! They would be gone when the sample is read: perf copies the stack that the thread runs on, which
//! is another one while the runtime or C code runs, and no labels.
//!
//! ```text
//!  sampling event fires ─► BPF program: thread's m ─► m.curg ─► stack, labels ─► ring of captures
//!                     └──► the sample itself ─────────────────────────────────► ring of the CPU
//! ```
//!
//! The two are matched by thread and time: a sample is written right after its capture.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, MapData, ProgramArray, RingBuf};
use aya::programs::PerfEvent;
use zerocopy::{FromBytes as _, Immutable, IntoBytes, transmute};

use crate::SampleProgram;
use crate::bpf::goroutine::{self as abi, MAX_THREADS, OBJECT, ThreadBytes};
use crate::bpf::{self, BpfError, BpfStep, Loaded};

/// The program's name.
const PROGRAM: &str = "goroutine";

/// Offsets of fields in the runtime's types, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
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
    /// `m.procid`, which shows that an `m` was reused.
    pub procid: u64,
    /// The offsets of its Go version.
    pub offsets: FieldOffsets,
    /// Labels are a map (before Go 1.24) instead of a slice.
    pub labels_are_a_map: bool,
    /// The program contains C code, which may have called back into Go.
    pub has_cgo: bool,
}

impl GoThread {
    fn encode(&self) -> ThreadBytes {
        let labels = if self.labels_are_a_map { abi::LABELS_ARE_A_MAP } else { 0 };
        let cgo = if self.has_cgo { abi::HAS_CGO } else { 0 };
        transmute!(abi::Thread {
            m: self.m,
            procid: self.procid,
            offsets: self.offsets,
            flags: labels | cgo,
            padding: 0,
        })
    }
}

/// A copied part of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StackCopy {
    /// Its lowest address.
    pub start: u64,
    /// The bytes from there on.
    pub bytes: Vec<u8>,
}

/// Profiler labels as they were when the sample was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapturedLabels {
    /// Keys and values, in no particular order.
    pub labels: Vec<(String, String)>,
    /// Some are missing or truncated.
    pub incomplete: bool,
}

/// What was captured with one sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// The thread.
    pub tid: i32,
    /// CLOCK_MONOTONIC in nanoseconds, shortly before the sample's.
    pub time: u64,
    /// The interrupted program counter, which may be in the kernel.
    pub pc: u64,
    /// The interrupted stack pointer, which may be in the kernel.
    pub sp: u64,
    /// The address of the goroutine that the thread runs; 0 for none.
    pub g: u64,
    /// The goroutine's id.
    pub goid: u64,
    /// The bounds of its stack.
    pub stack_bounds: (u64, u64),
    /// `g.sched.sp` and `.pc`: where the goroutine left its stack, if the thread runs on another
    /// one.
    pub sched: (u64, u64),
    /// `m.vdsoSP` and `m.vdsoPC`: where the vDSO was called from, if it runs.
    pub vdso: (u64, u64),
    /// `m.g0.sched.sp`: where the thread left its system stack.
    pub system_sp: u64,
    /// The used part of the goroutine's stack, if the thread does not run on it.
    pub stack: StackCopy,
    /// The stack is longer than the copy.
    pub stack_cut: bool,
    /// The system stack of a program with C code.
    pub system_stack: StackCopy,
    /// `g.labels`: 0 for none.
    pub labels_at: u64,
    /// The labels; `None` if there are none, or the ring had no space for them.
    pub labels: Option<CapturedLabels>,
}

/// The loaded program and its maps.
pub struct GoroutineCapture {
    object: Loaded,
    threads: HashMap<MapData, u32, ThreadBytes>,
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
    /// Loads the program. It does nothing until a sampler
    /// [runs](crate::Sampler::run_with_each_sample) it and threads are [watched](Self::watch).
    ///
    /// # Errors
    /// [`BpfError`]; it requires CAP_BPF, CAP_PERFMON and Linux 5.8.
    pub fn load() -> Result<Self, BpfError> {
        // The program reads no kernel structure: parsing the kernel's types would be a waste.
        let mut object = OBJECT.open(None)?;
        let failed = object.failed(BpfStep::Load(PROGRAM));
        object.program_mut::<PerfEvent>(PROGRAM)?.load().map_err(failed)?;
        bpf::loaded(PROGRAM);
        Ok(Self {
            threads: object.take_map("threads")?,
            ring: object.take_map("captures")?,
            lost: object.take_map("lost")?,
            next: object.take_map("next")?,
            object,
            known: BTreeMap::new(),
        })
    }

    /// The program, to run with each sample.
    ///
    /// # Errors
    /// [`BpfError`] when descriptors run out.
    pub fn program(&self) -> Result<SampleProgram, BpfError> {
        self.object.sample_program(PROGRAM)
    }

    /// Runs `next` right after this program at the same samples, until this is dropped: an event
    /// runs one program only.
    ///
    /// # Errors
    /// [`BpfError`] when the kernel does not let one program call the other.
    pub fn then(&mut self, next: &SampleProgram) -> Result<(), BpfError> {
        let failed = self.object.failed(BpfStep::Map("next"));
        self.next.set(0, next.loaded(), 0).map_err(failed)
    }

    /// Captures the goroutines of this thread from now on. Returns whether the table had space.
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
            // The kernel's map may have lost it.
            let _ = self.threads.remove(&tid.cast_unsigned());
        }
    }

    /// Parts of captures that were lost: the ring had no space.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).unwrap_or(0)
    }

    /// Passes on what was captured, in time order for each thread.
    pub fn drain(&mut self, mut sink: impl FnMut(Part)) {
        while let Some(record) = self.ring.next() {
            if let Some(part) = parse(&record) {
                sink(part);
            }
        }
    }
}

/// A record of the ring: the first part of a capture, or a later part of the thread's last one.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// The capture without the parts that may follow.
    Goroutine(Box<Capture>),
    /// [`Capture::system_stack`] of the capture of this thread and time.
    SystemStack(i32, u64, StackCopy),
    /// [`Capture::labels`] of the capture of this thread and time.
    Labels(i32, u64, CapturedLabels),
}

impl Part {
    /// Adds this part to the capture that it belongs to.
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

/// A record is one of the structures of `bpf/goroutine.bpf.c` with what follows it.
fn parse(record: &[u8]) -> Option<Part> {
    match u32::read_from_prefix(record).ok()?.0 {
        abi::KIND_GOROUTINE => goroutine(record),
        abi::KIND_SYSTEM_STACK => {
            let (head, rest) = abi::SystemStack::read_from_prefix(record).ok()?;
            let stack = stack_copy(head.at, head.len, rest)?;
            Some(Part::SystemStack(head.tid.cast_signed(), head.time, stack))
        }
        abi::KIND_LABELS => {
            let (head, rest) = abi::Labels::read_from_prefix(record).ok()?;
            Some(Part::Labels(head.tid.cast_signed(), head.time, labels(&head, rest)?))
        }
        _ => None,
    }
}

fn goroutine(record: &[u8]) -> Option<Part> {
    let (head, rest) = abi::Goroutine::read_from_prefix(record).ok()?;
    Some(Part::Goroutine(Box::new(Capture {
        tid: head.tid.cast_signed(),
        time: head.time,
        pc: head.pc,
        sp: head.sp,
        g: head.g,
        goid: head.goid,
        stack_bounds: (head.low, head.high),
        sched: (head.sched_sp, head.sched_pc),
        vdso: (head.vdso_sp, head.vdso_pc),
        system_sp: head.system_sp,
        stack: stack_copy(head.stack_at, head.stack_len, rest)?,
        labels_at: head.labels,
        stack_cut: head.stack_wanted > head.stack_len,
        ..Capture::default()
    })))
}

fn stack_copy(start: u64, len: u64, rest: &[u8]) -> Option<StackCopy> {
    let bytes = rest.get(..usize::try_from(len).ok()?)?.to_vec();
    Some(StackCopy { start, bytes })
}

fn labels(head: &abi::Labels, mut rest: &[u8]) -> Option<CapturedLabels> {
    let incomplete = head.count != head.copied;
    let mut all = CapturedLabels { labels: Vec::new(), incomplete };
    for _ in 0..head.copied {
        let label;
        (label, rest) = abi::Label::read_from_prefix(rest).ok()?;
        let key = text(&label.key, label.key_len, &mut all.incomplete);
        let value = text(&label.value, label.value_len, &mut all.incomplete);
        if let (Some(key), Some(value)) = (key, value) {
            all.labels.push((key, value));
        }
    }
    Some(all)
}

fn text(room: &[u8], length: u64, incomplete: &mut bool) -> Option<String> {
    let fits = usize::try_from(length).ok().and_then(|n| room.get(..n));
    *incomplete |= fits.is_none();
    if length == abi::UNREADABLE {
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
        record.extend([b'k'; 64]);
        record.extend([b'v'; 128]);
        parse(&record).unwrap().complete(&mut c);
        let labels = c.labels.unwrap();
        assert!(labels.incomplete, "one of two, and cut");
        assert_eq!(labels.labels, [("k".into(), "v".repeat(128))]);
    }

    #[test]
    fn a_truncated_record_is_rejected() {
        let whole = words(1, &[99, 1, 2, 3, 4, 10, 20, 11, 12, 13, 14, 15, 16, 11, 8, 9, 0x55]);
        for n in 0..whole.len() {
            assert_eq!(parse(&whole[..n]), None, "{n}");
        }
    }
}

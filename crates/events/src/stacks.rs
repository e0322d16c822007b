//! Copies registers and stacks of the threads of a process without stopping them, with a BPF
//! program that the kernel runs for each thread in turn (`bpf/stacks.bpf.c`).

use std::io::{self, Read};

use aya::Btf;
use aya::maps::Array;
use aya::programs::Iter;
use zerocopy::{FromBytes as _, IntoBytes as _, transmute};

use crate::bpf::stacks::{self as abi, CopyHead, OBJECT, STACK_BYTES, WhoseBytes};
use crate::bpf::{self, BpfError, BpfStep, Loaded};

/// The program's name.
const PROGRAM: &str = "copy_stacks";

/// A thread at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadReport<'a> {
    /// The thread, in our PID namespace.
    pub tid: i32,
    /// The task's state (linux/sched.h); 0 for a runnable thread.
    pub state: u32,
    /// How often it was switched out. If this is the same at two looks, and it ran at neither, it
    /// has not run between them.
    pub switches: u64,
    /// The copy, or why there is none.
    pub what: CopyResult<'a>,
}

/// The result of a look at a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyResult<'a> {
    /// It was running on a CPU.
    Runs,
    /// It has not run since an earlier look copied it.
    Same,
    /// It was blocked or preempted, and this is its copy.
    Copied(CopiedStack<'a>),
}

/// The copy of a thread that did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedStack<'a> {
    /// User registers in the order of [`crate::USER_REGISTERS`]; meaningless for a 32-bit program.
    pub registers: crate::Words<'a>,
    /// It belongs to a 32-bit program.
    pub is_32_bit: bool,
    /// The thread pointer (`fs` base, `tpidr_el0`).
    pub thread_pointer: u64,
    /// The number of the system call that it is in, and its arguments.
    pub call: Option<(u32, [u64; 6])>,
    /// Its stack from the stack pointer on, to its end or up to 24 KiB.
    pub stack: &'a [u8],
    /// The copy is full: the stack may go on.
    pub is_full: bool,
}

/// The loaded program. It is unloaded when this is dropped, or when our process ends.
pub struct StackCopier {
    object: Loaded,
}

impl StackCopier {
    /// Loads the program.
    ///
    /// # Errors
    /// [`BpfError`]; it requires CAP_BPF, CAP_PERFMON, Linux 5.18 and the kernel's BTF.
    pub fn open() -> Result<Self, BpfError> {
        let types: Btf = bpf::kernel_types(&OBJECT)?;
        let mut object = OBJECT.open(Some(&types))?;
        let failed = object.failed(BpfStep::Load(PROGRAM));
        object.program_mut::<Iter>(PROGRAM)?.load("task", &types).map_err(failed)?;
        bpf::loaded(PROGRAM);
        Ok(Self { object })
    }

    /// Looks at each thread of a process (a PID in our namespace) once. Threads that have not run
    /// since an earlier look of this copier are not copied again. The caller holds the process, so
    /// that its PID is not reused.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn look(
        &mut self,
        pid: i32,
        mut sink: impl FnMut(&ThreadReport<'_>),
    ) -> Result<(), BpfError> {
        let pid_level = host::namespace::pid_level();
        let whose: WhoseBytes =
            transmute!(abi::TargetProcess { tgid: pid.cast_unsigned(), pid_level });
        let failed = self.object.failed(BpfStep::Map("whose"));
        self.object.map_mut::<Array<_, WhoseBytes>>("whose")?.set(0, whose, 0).map_err(failed)?;
        let file = self.object.iterate(PROGRAM)?;
        read_records(file, |bytes| parse(bytes, &mut sink))
            .map_err(self.object.failed(BpfStep::Iterate(PROGRAM)))
    }
}

/// Reads to the end. `take` consumes a record at the front and returns its size.
fn read_records(
    mut file: impl Read,
    mut take: impl FnMut(&[u8]) -> Option<usize>,
) -> io::Result<()> {
    let mut buffer = vec![0; 2 * (size_of::<CopyHead>() + STACK_BYTES)];
    let mut filled = 0;
    loop {
        let got = match file.read(&mut buffer[filled..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if got == 0 {
            return Ok(());
        }
        filled += got;
        let mut begin = 0;
        while let Some(size) = take(&buffer[begin..filled]) {
            begin += size;
        }
        buffer.copy_within(begin..filled, 0);
        filled -= begin;
    }
}

/// Parses the record at the front, and returns its size; `None` if it is incomplete.
fn parse(bytes: &[u8], sink: &mut impl FnMut(&ThreadReport<'_>)) -> Option<usize> {
    let (head, rest) = CopyHead::read_from_prefix(bytes).ok()?;
    let stack_bytes = (head.stack_bytes as usize).min(STACK_BYTES);
    let stack = rest.get(..stack_bytes)?;
    let call = u32::try_from(head.syscall).ok();
    let copy = || CopiedStack {
        registers: crate::Words::new(head.registers.as_bytes()),
        is_32_bit: head.what == abi::THREAD_OF_32_BITS,
        thread_pointer: head.thread_pointer,
        call: call.map(|number| (number, head.arguments)),
        stack,
        is_full: stack_bytes > STACK_BYTES - abi::PAGE_BYTES,
    };
    let what = match head.what {
        abi::THREAD_RUNS => Some(CopyResult::Runs),
        abi::THREAD_SAME => Some(CopyResult::Same),
        abi::THREAD_COPIED | abi::THREAD_OF_32_BITS => Some(CopyResult::Copied(copy())),
        _ => None,
    };
    if let Some(what) = what {
        let tid = head.tid.cast_signed();
        sink(&ThreadReport { tid, state: head.state, switches: head.switches, what });
    }
    Some(size_of::<CopyHead>() + stack_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::stacks::{REGISTERS, THREAD_COPIED as COPIED};

    const HEAD: usize = size_of::<CopyHead>();

    fn record(what: u32, syscall: i32, stack: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [77, what, 1, syscall.cast_unsigned(), stack.len() as u32, 0] {
            bytes.extend(word.to_le_bytes());
        }
        for long in [5u64, 0x7000].into_iter().chain(10..16).chain(100..100 + REGISTERS as u64) {
            bytes.extend(long.to_le_bytes());
        }
        assert_eq!(bytes.len(), HEAD);
        bytes.extend(stack);
        bytes
    }

    #[test]
    fn a_copy_is_parsed() {
        let bytes = record(COPIED, 202, &[1, 2, 3, 4]);
        let mut seen = 0;
        let mut sink = |look: &ThreadReport<'_>| {
            assert_eq!((look.tid, look.state, look.switches), (77, 1, 5));
            let CopyResult::Copied(copy) = look.what else { panic!("a copy") };
            assert_eq!(copy.call, Some((202, [10, 11, 12, 13, 14, 15])));
            assert_eq!((copy.thread_pointer, copy.stack), (0x7000, &[1, 2, 3, 4][..]));
            assert_eq!(copy.registers.iter().take(2).collect::<Vec<_>>(), [100, 101]);
            assert!(!copy.is_full && !copy.is_32_bit);
            seen += 1;
        };
        assert_eq!(parse(&bytes, &mut sink), Some(HEAD + 4));
        assert_eq!(parse(&bytes[..HEAD + 3], &mut sink), None);
        assert_eq!(parse(&bytes[..HEAD - 1], &mut sink), None);
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_page_fault_is_no_system_call_and_unknown_records_are_skipped() {
        let mut calls = Vec::new();
        let mut sink = |look: &ThreadReport<'_>| match look.what {
            CopyResult::Copied(copy) => calls.push(copy.call),
            CopyResult::Runs | CopyResult::Same => calls.push(Some((0, [0; 6]))),
        };
        parse(&record(COPIED, -1, &[]), &mut sink);
        parse(&record(9, 1, &[]), &mut sink);
        assert_eq!(calls, [None]);
    }

    #[test]
    fn records_may_span_reads() {
        let all = record(COPIED, 1, &vec![7; STACK_BYTES]).repeat(5);
        let mut seen = 0;
        let mut sink = |look: &ThreadReport<'_>| {
            let CopyResult::Copied(copy) = look.what else { panic!("a copy") };
            assert!(copy.is_full && copy.stack.iter().all(|b| *b == 7));
            seen += 1;
        };
        read_records(&all[..], |bytes| parse(bytes, &mut sink)).unwrap();
        assert_eq!(seen, 5);
    }
}

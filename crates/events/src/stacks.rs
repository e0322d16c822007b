//! Registers and stacks of all threads of a process while nothing is stopped, by a BPF program that
//! the kernel runs for each thread in turn (`bpf/stacks.bpf.c`).

use std::io::{self, Read};

use aya::maps::Array;
use aya::programs::{Iter, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use crate::USER_REGISTERS;
use crate::namespace::own_pid_level;
use crate::refusal::refusal;

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/stacks.x86_64.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/stacks.aarch64.o");

/// The program, and its map.
const PROGRAM: &str = "copy_stacks";
const WHOSE: &str = "whose";

/// Words of a register set.
const REGISTERS: usize = USER_REGISTERS.count_ones() as usize;
/// Bytes of `struct copy_head`.
const HEAD: usize = 6 * 4 + (2 + 6 + REGISTERS) * 8;
/// `STACK_BYTES`.
const STACK_BYTES: usize = 6 * 4096;

/// `copy_head.what`.
const RUNS: u32 = 0;
const SAME: u32 = 1;
const COPIED: u32 = 2;
const OF_32_BITS: u32 = 3;

/// Why stacks cannot be copied so.
#[derive(Debug, thiserror::Error)]
pub enum StackCopyError {
    /// The kernel does not tell its types, which the program is fitted to.
    #[error("the kernel has no type information (/sys/kernel/btf/vmlinux): {0}")]
    NoTypes(aya::BtfError),
    /// The maps cannot be made from the object.
    #[error("bpf objects were refused: {0}")]
    Load(#[from] aya::EbpfError),
    /// The kernel refuses the program, or has no such iterator.
    #[error(
        "the kernel refuses the bpf program that copies stacks, which Linux 5.18 brought: {}",
        refusal(.0)
    )]
    Program(#[from] ProgramError),
    /// The iterator cannot be made.
    #[error("bpf iterator: {0}")]
    Iterator(#[from] aya::programs::links::LinkError),
    /// It cannot be told whose stacks.
    #[error("bpf map {WHOSE}: {0}")]
    Map(#[from] aya::maps::MapError),
    /// It broke off.
    #[error("reading the bpf iterator: {0}")]
    Read(#[from] io::Error),
}

/// `struct whose`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Whose {
    tgid: u32,
    pid_level: u32,
}

// SAFETY: plain integers without padding; every bit pattern is valid.
#[allow(unsafe_code)]
unsafe impl aya::Pod for Whose {}

/// A thread at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadLook<'a> {
    /// The thread, in our PID namespace.
    pub tid: i32,
    /// The task's state (linux/sched.h); 0 where it could run.
    pub state: u32,
    /// How often it has been switched out: the same at two looks where it ran at neither means
    /// that it has not run between them.
    pub switches: u64,
    /// What became of it.
    pub what: Looked<'a>,
}

/// What a look at a thread gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked<'a> {
    /// Nothing: it ran on a CPU then.
    Runs,
    /// Nothing new: it has not run since an earlier look copied it.
    Same,
    /// It stood still, and this is its copy.
    Copied(LookedCopy<'a>),
}

/// The copy of a thread that stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookedCopy<'a> {
    /// User registers in the order of [`USER_REGISTERS`]; a 32-bit program's mean nothing here.
    pub registers: crate::Words<'a>,
    /// It is a 32-bit program's.
    pub is_32_bit: bool,
    /// The thread pointer.
    pub thread_pointer: u64,
    /// The system call that it is in, and its arguments.
    pub call: Option<(u32, [u64; 6])>,
    /// Its stack, from the stack pointer on, as far as there is memory and room for it.
    pub stack: &'a [u8],
    /// There was no more room: the stack may go on.
    pub is_full: bool,
}

/// The program, loaded. Nothing of it outlives this value, or the process.
pub struct StackCopier {
    bpf: Ebpf,
}

impl StackCopier {
    /// Loads the program.
    ///
    /// # Errors
    /// [`StackCopyError`].
    pub fn open() -> Result<Self, StackCopyError> {
        let btf = Btf::from_sys_fs().map_err(StackCopyError::NoTypes)?;
        // Task storage is known to the kernel, if not to the library.
        let mut bpf = EbpfLoader::new().btf(Some(&btf)).allow_unsupported_maps().load(OBJECT)?;
        program(&mut bpf)?.load("task", &btf)?;
        Ok(Self { bpf })
    }

    /// Looks at each thread of a process once; what has not run since it was copied at an earlier
    /// look of this copier is not copied again. The caller holds the process, so that its number
    /// cannot have become another's.
    ///
    /// # Errors
    /// [`StackCopyError`].
    pub fn look(
        &mut self,
        pid: i32,
        mut sink: impl FnMut(&ThreadLook<'_>),
    ) -> Result<(), StackCopyError> {
        let whose = Whose { tgid: pid.cast_unsigned(), pid_level: own_pid_level() };
        let map = self.bpf.map_mut(WHOSE).ok_or_else(absent)?;
        Array::<_, Whose>::try_from(map)?.set(0, whose, 0)?;
        let iterator = program(&mut self.bpf)?;
        let id = iterator.attach()?;
        let file = iterator.take_link(id)?.into_file()?;
        read_records(file, |bytes| parse(bytes, &mut sink))?;
        Ok(())
    }
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn program(bpf: &mut Ebpf) -> Result<&mut Iter, StackCopyError> {
    let found = bpf.program_mut(PROGRAM).ok_or_else(absent)?;
    Ok(found.try_into()?)
}

/// Reads to the end, and has records taken off the front of what has come.
fn read_records(
    mut file: impl Read,
    mut take: impl FnMut(&[u8]) -> Option<usize>,
) -> io::Result<()> {
    let mut buffer = vec![0; 2 * (HEAD + STACK_BYTES)];
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

/// Reads the record at the front, and gives its size; `None` where it is not whole yet.
fn parse(bytes: &[u8], sink: &mut impl FnMut(&ThreadLook<'_>)) -> Option<usize> {
    let head = bytes.get(..HEAD)?;
    let word = |at: usize| head[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let long = |at: usize| head[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let [tid, what, state, syscall, stack_bytes] = [0, 4, 8, 12, 16].map(word);
    let stack_bytes = (stack_bytes as usize).min(STACK_BYTES);
    let stack = bytes.get(HEAD..HEAD + stack_bytes)?;
    let call = i32::try_from(syscall).ok().map(i32::cast_unsigned);
    let copy = || LookedCopy {
        registers: crate::Words::new(&head[HEAD - REGISTERS * 8..]),
        is_32_bit: what == OF_32_BITS,
        thread_pointer: long(32),
        call: call.map(|number| (number, [40, 48, 56, 64, 72, 80].map(long))),
        stack,
        is_full: stack_bytes > STACK_BYTES - 4096,
    };
    let what = match what {
        RUNS => Some(Looked::Runs),
        SAME => Some(Looked::Same),
        COPIED | OF_32_BITS => Some(Looked::Copied(copy())),
        _ => None,
    };
    if let Some(what) = what {
        sink(&ThreadLook { tid: tid.cast_signed(), state, switches: long(24), what });
    }
    Some(HEAD + stack_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_copy_is_taken_apart() {
        let bytes = record(COPIED, 202, &[1, 2, 3, 4]);
        let mut seen = 0;
        let mut sink = |look: &ThreadLook<'_>| {
            assert_eq!((look.tid, look.state, look.switches), (77, 1, 5));
            let Looked::Copied(copy) = look.what else { panic!("a copy") };
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
    fn a_page_fault_is_no_system_call_and_nonsense_is_passed_over() {
        let mut calls = Vec::new();
        let mut sink = |look: &ThreadLook<'_>| match look.what {
            Looked::Copied(copy) => calls.push(copy.call),
            Looked::Runs | Looked::Same => calls.push(Some((0, [0; 6]))),
        };
        parse(&record(COPIED, -1, &[]), &mut sink);
        parse(&record(9, 1, &[]), &mut sink);
        assert_eq!(calls, [None]);
    }

    #[test]
    fn records_are_read_across_the_borders_of_readings() {
        let all = record(COPIED, 1, &vec![7; STACK_BYTES]).repeat(5);
        let mut seen = 0;
        let mut sink = |look: &ThreadLook<'_>| {
            let Looked::Copied(copy) = look.what else { panic!("a copy") };
            assert!(copy.is_full && copy.stack.iter().all(|b| *b == 7));
            seen += 1;
        };
        read_records(&all[..], |bytes| parse(bytes, &mut sink)).unwrap();
        assert_eq!(seen, 5);
    }
}

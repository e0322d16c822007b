//! Reads the general registers of a stopped thread with ptrace.

use image::Avma;

use super::sys;

/// x86_64 `user_regs_struct` (sys/user.h): r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi
/// rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs.
#[cfg(target_arch = "x86_64")]
const WORDS: usize = 27;
/// aarch64 `user_pt_regs` (asm/ptrace.h): x0 to x30, sp, pc, pstate.
#[cfg(target_arch = "aarch64")]
const WORDS: usize = 34;

/// DWARF number (System V psABI AMD64, figure 3.36) and index of each register.
#[cfg(target_arch = "x86_64")]
const DWARF: [(u16, usize); 17] = [
    (0, 10),
    (1, 12),
    (2, 11),
    (3, 5),
    (4, 13),
    (5, 14),
    (6, 4),
    (7, 19),
    (8, 9),
    (9, 8),
    (10, 7),
    (11, 6),
    (12, 3),
    (13, 2),
    (14, 1),
    (15, 0),
    (16, 16),
];
#[cfg(target_arch = "x86_64")]
const SP: usize = 19;
#[cfg(target_arch = "x86_64")]
const PC: usize = 16;
/// `fs_base`.
#[cfg(target_arch = "x86_64")]
const THREAD_POINTER: Option<usize> = Some(21);
#[cfg(target_arch = "aarch64")]
const THREAD_POINTER: Option<usize> = None;
#[cfg(target_arch = "aarch64")]
const SP: usize = 31;
#[cfg(target_arch = "aarch64")]
const PC: usize = 32;

/// Why a thread's registers cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRegisters {
    /// It is not stopped: it was killed, or never stopped.
    #[error("the thread is gone")]
    Gone,
    /// A 32-bit program.
    #[error("32-bit code")]
    Compat,
}

/// The user registers of a stopped thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRegisters {
    words: [u64; WORDS],
}

impl UserRegisters {
    pub(super) fn read(tid: i32) -> Result<Self, NoRegisters> {
        let mut words = [0; WORDS];
        let len = sys::registers(tid, &mut words).map_err(|_| NoRegisters::Gone)?;
        // The kernel returns the registers of the thread's own mode, which are fewer for 32 bits.
        if len == size_of_val(&words) { Ok(Self { words }) } else { Err(NoRegisters::Compat) }
    }

    /// The program counter.
    #[must_use]
    pub fn pc(&self) -> Avma {
        Avma(self.words[PC])
    }

    /// The stack pointer.
    #[must_use]
    pub fn sp(&self) -> Avma {
        Avma(self.words[SP])
    }

    /// The thread pointer; `None` where it is not among the general registers (aarch64).
    #[must_use]
    pub fn thread_pointer(&self) -> Option<u64> {
        THREAD_POINTER.map(|at| self.words[at])
    }

    /// The registers by their DWARF numbers; the program counter has number 16 on x86_64 and 32 on
    /// aarch64.
    #[cfg(target_arch = "x86_64")]
    pub fn by_dwarf_number(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        DWARF.iter().map(|(number, at)| (*number, self.words[*at]))
    }

    /// The registers by their DWARF numbers; the program counter has number 16 on x86_64 and 32 on
    /// aarch64.
    #[cfg(target_arch = "aarch64")]
    pub fn by_dwarf_number(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0u16..).zip(self.words[..=PC].iter().copied())
    }
}

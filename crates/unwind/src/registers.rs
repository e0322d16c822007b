//! Holds the registers of a frame, each with a value or unknown.

use image::{Arch, Avma};

use crate::numbers::{aarch64, x86_64};

/// Number of tracked registers: DWARF numbers 0 to 32 cover the general registers, the stack
/// pointer and the program counter of both architectures.
pub(crate) const COUNT: usize = 33;

/// The user registers of a thread, or those of a frame that could be recovered.
///
/// Numbering is DWARF's for the architecture (System V psABI AMD64, figure 3.36; AADWARF64,
/// section 4.1); the program counter is 16 on x86-64 and 32 on aarch64. A register that was not
/// recorded, or that a callee has overwritten, is *unknown*: [`Registers::get`] returns `None`, so
/// that nothing is computed from a stale value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    values: [u64; COUNT],
    known: u64,
    arch: Arch,
}

impl Registers {
    /// Registers of which none is known.
    #[must_use]
    pub const fn unknown(arch: Arch) -> Self {
        Self { values: [0; COUNT], known: 0, arch }
    }

    /// Registers as perf_event_open(2) records them for `PERF_SAMPLE_REGS_USER`: one value per set
    /// bit of `mask`, lowest bit first. Bits are those of `enum perf_event_x86_regs` and `enum
    /// perf_event_arm_regs` in the kernel's `asm/perf_regs.h`. Bits without a counterpart here
    /// (flags, segments, vector registers) are skipped; registers without a value stay unknown.
    #[must_use]
    pub fn from_perf(arch: Arch, values: &[u64], mask: u64) -> Self {
        let mut registers = Self::unknown(arch);
        let bits = (0..64u16).filter(|bit| mask >> bit & 1 == 1);
        for (bit, value) in bits.zip(values) {
            let number = match arch {
                Arch::X86_64 => x86_64::perf_to_dwarf(bit),
                Arch::Aarch64 => aarch64::perf_to_dwarf(bit),
            };
            if let Some(number) = number {
                registers.set(number, *value);
            }
        }
        registers
    }

    /// Registers with these DWARF numbers from consecutive little-endian words.
    pub(crate) fn from_words(
        arch: Arch,
        numbers: impl IntoIterator<Item = u16>,
        words: &[u8],
    ) -> Self {
        let mut registers = Self::unknown(arch);
        for (number, word) in numbers.into_iter().zip(words.as_chunks::<8>().0) {
            registers.set(number, u64::from_le_bytes(*word));
        }
        registers
    }

    /// The architecture whose numbers are used.
    #[must_use]
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// The value of a register by its DWARF number, if it is known.
    #[must_use]
    #[inline]
    pub fn get(&self, number: u16) -> Option<u64> {
        let value = self.values.get(usize::from(number))?;
        (self.known >> number & 1 == 1).then_some(*value)
    }

    /// Sets a register by its DWARF number; untracked numbers are ignored.
    #[inline]
    pub fn set(&mut self, number: u16, value: u64) {
        if let Some(slot) = self.values.get_mut(usize::from(number)) {
            *slot = value;
            self.known |= 1 << number;
        }
    }

    /// Makes a register unknown.
    #[inline]
    pub fn forget(&mut self, number: u16) {
        if usize::from(number) < COUNT {
            self.known &= !(1 << number);
        }
    }

    /// The program counter.
    #[must_use]
    #[inline]
    pub fn pc(&self) -> Option<Avma> {
        self.get(self.by_arch(x86_64::RIP, aarch64::PC)).map(Avma)
    }

    /// The stack pointer.
    #[must_use]
    #[inline]
    pub fn sp(&self) -> Option<Avma> {
        self.get(self.by_arch(x86_64::RSP, aarch64::SP)).map(Avma)
    }

    /// The frame pointer register, which may hold anything if the code keeps no frame pointers.
    #[must_use]
    #[inline]
    pub fn fp(&self) -> Option<u64> {
        self.get(self.by_arch(x86_64::RBP, aarch64::FP))
    }

    /// Sets the program counter.
    pub fn set_pc(&mut self, pc: Avma) {
        self.set(self.by_arch(x86_64::RIP, aarch64::PC), pc.0);
    }

    /// Sets the stack pointer.
    pub fn set_sp(&mut self, sp: Avma) {
        self.set(self.by_arch(x86_64::RSP, aarch64::SP), sp.0);
    }

    const fn by_arch(&self, on_x86_64: u16, on_aarch64: u16) -> u16 {
        match self.arch {
            Arch::X86_64 => on_x86_64,
            Arch::Aarch64 => on_aarch64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_unknown_until_it_is_set_and_once_it_is_forgotten() {
        let mut r = Registers::unknown(Arch::X86_64);
        assert_eq!((r.get(3), r.pc(), r.sp(), r.fp()), (None, None, None, None));
        r.set(3, 7);
        r.set(COUNT as u16, 8);
        r.forget(COUNT as u16);
        assert_eq!((r.get(3), r.get(2), r.get(COUNT as u16)), (Some(7), None, None));
        r.set(4, 9);
        r.forget(3);
        assert_eq!((r.get(3), r.get(4)), (None, Some(9)));
    }

    #[test]
    fn special_registers_have_the_numbers_of_the_architecture() {
        for (arch, [fp, sp, pc]) in [(Arch::X86_64, [6, 7, 16]), (Arch::Aarch64, [29, 31, 32])] {
            let mut r = Registers::unknown(arch);
            r.set_pc(Avma(1));
            r.set_sp(Avma(2));
            r.set(fp, 3);
            assert_eq!((r.get(pc), r.get(sp)), (Some(1), Some(2)));
            assert_eq!((r.pc(), r.sp(), r.fp()), (Some(Avma(1)), Some(Avma(2)), Some(3)));
        }
    }

    #[test]
    fn perf_records_a_value_for_each_bit_of_the_mask() {
        // rbx, flags (not kept), r8, r9 without a value
        let mask = 1 << 1 | 1 << 9 | 1 << 16 | 1 << 17;
        let r = Registers::from_perf(Arch::X86_64, &[10, 20, 30], mask);
        let known: Vec<_> = (0..COUNT as u16).filter_map(|n| Some((n, r.get(n)?))).collect();
        assert_eq!(known, [(3, 10), (8, 30)]);
        let words: Vec<u8> = [5u64, 6].iter().flat_map(|w| w.to_le_bytes()).collect();
        let r = Registers::from_words(Arch::Aarch64, [30, 2, 3], &words);
        assert_eq!((r.get(30), r.get(2), r.get(3)), (Some(5), Some(6), None));
    }
}

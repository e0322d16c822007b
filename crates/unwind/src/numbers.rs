//! Lists the DWARF numbers of the registers that unwinding names, for each instruction set.

/// x86-64 (System V psABI AMD64, figure 3.36).
pub(crate) mod x86_64 {
    /// The frame pointer.
    pub(crate) const RBP: u16 = 6;
    /// The result of a function or a system call.
    pub(crate) const RAX: u16 = 0;
    /// A function's first argument.
    pub(crate) const RDI: u16 = 5;
    /// The stack pointer.
    pub(crate) const RSP: u16 = 7;
    /// The return address column, which stands for the program counter.
    pub(crate) const RIP: u16 = 16;

    /// `enum perf_event_x86_regs` to DWARF.
    pub(crate) fn perf_to_dwarf(bit: u16) -> Option<u16> {
        // AX BX CX DX SI DI BP SP IP, FLAGS CS SS DS ES FS GS, R8..R15
        const FIRST: [u16; 9] = [0, 3, 2, 1, 4, 5, RBP, RSP, RIP];
        match bit {
            0..=8 => Some(FIRST[usize::from(bit)]),
            16..=23 => Some(bit - 8),
            _ => None,
        }
    }
}

/// 64-bit Arm (AADWARF64, section 4.1).
pub(crate) mod aarch64 {
    /// x29, the frame pointer.
    pub(crate) const FP: u16 = 29;
    /// The first argument of a function; also the result of a function or a system call.
    pub(crate) const X0: u16 = 0;
    /// x30.
    pub(crate) const LR: u16 = 30;
    /// The stack pointer.
    pub(crate) const SP: u16 = 31;
    /// The program counter.
    pub(crate) const PC: u16 = 32;

    /// `enum perf_event_arm_regs` counts x0 to x29, lr, sp, pc as DWARF does.
    pub(crate) fn perf_to_dwarf(bit: u16) -> Option<u16> {
        (bit <= PC).then_some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_perf_events_have_their_dwarf_numbers() {
        // In the order of `enum perf_event_x86_regs`: rax rbx rcx rdx rsi rdi rbp rsp rip.
        let first: Vec<_> = (0..=8).filter_map(x86_64::perf_to_dwarf).collect();
        assert_eq!(first, [0, 3, 2, 1, 4, 5, 6, 7, 16]);
        assert!((9..=15).all(|bit| x86_64::perf_to_dwarf(bit).is_none()));
        let last: Vec<_> = (16..=23).filter_map(x86_64::perf_to_dwarf).collect();
        assert_eq!(last, [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(x86_64::perf_to_dwarf(24), None);
        let arm = [0, 29, 32, 33].map(aarch64::perf_to_dwarf);
        assert_eq!(arm, [Some(0), Some(29), Some(32), None]);
    }
}

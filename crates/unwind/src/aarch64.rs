//! Implements the parts of unwinding that are specific to 64-bit Arm on Linux: see [`Arch`].

use gopclntab::Function;
use image::{Avma, Memory, Svma, Unreadable};

use crate::Registers;
use crate::arch::{Arch, Stage};
use crate::follow::state::{Flow, State, Value};
use crate::numbers::aarch64::{FP, LR, PC, SP, X0};
use crate::rule::{LOST, Narrow, Rule, SAME, SLOTS};

/// Unwinding on 64-bit Arm.
pub(crate) struct Aarch64;

/// `mov x8, #139` (`__NR_rt_sigreturn`).
const MOV_X8_SIGRETURN: [u8; 4] = 0xd280_1168_u32.to_le_bytes();
/// `svc #0`.
const SVC_0: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

impl Arch for Aarch64 {
    const ARCH: image::Arch = image::Arch::Aarch64;
    const SP: u16 = SP;
    const FP: u16 = FP;
    const PC: u16 = PC;
    const RA: u16 = LR;
    const SAVED: &'static [u16] = &[LR, FP, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28];
    const ARGUMENT: u16 = X0;
    const RESULT: u16 = X0;
    const VENDOR: gimli::Vendor = gimli::Vendor::AArch64;
    const HAS_LINK_REGISTER: bool = true;

    fn ends_with_call(before: &[u8]) -> bool {
        let Some(last) = before.last_chunk::<4>() else { return false };
        let instruction = u32::from_le_bytes(*last);
        let bl = instruction & 0xfc00_0000 == 0x9400_0000;
        let blr = instruction & 0xffff_fc1f == 0xd63f_0000;
        // BLRAA, BLRAB, BLRAAZ, BLRABZ (Arm ARM C6.2): bit 24 selects the modifier form.
        let blra = instruction & 0xfeff_f800 == 0xd63f_0800;
        bl || blr || blra
    }

    fn direct_call_target(before: &[u8]) -> Option<i64> {
        let instruction = u32::from_le_bytes(*before.last_chunk::<4>()?);
        // imm26 counts words from the BL itself.
        let words = i64::from((instruction << 6).cast_signed() >> 6);
        (instruction & 0xfc00_0000 == 0x9400_0000).then_some(words * 4 - 4)
    }

    fn is_sigreturn(before: &[u8], at: &[u8]) -> bool {
        let first = at.strip_prefix(&MOV_X8_SIGRETURN).is_some_and(|rest| rest.starts_with(&SVC_0));
        first || (at.starts_with(&SVC_0) && before.ends_with(&MOV_X8_SIGRETURN))
    }

    fn ends_thread(at: &[u8]) -> bool {
        const MOV_X8_EXIT: [u8; 4] = 0xd280_0ba8_u32.to_le_bytes();
        at.strip_prefix(&MOV_X8_EXIT).is_some_and(|rest| rest.starts_with(&SVC_0))
    }

    fn begins_thread(before: &[u8], registers: &Registers) -> bool {
        before.ends_with(&SVC_0) && registers.get(X0) == Some(0)
    }

    /// Go's frames on arm64 (cmd/internal/obj/arm64, `preprocess`): the link register is saved at
    /// the stack pointer and the frame pointer *below* it, where a callee's frame begins. `pcsp`
    /// gives the size of the whole frame. A function without a frame has its return address in the
    /// link register.
    fn go_rule(function: &Function<'_>, lookup: Svma) -> Option<Rule> {
        let name = function.name();
        let is_handler = ["runtime.sigtramp", "runtime.cgoSigtramp"].contains(&&*name);
        if (function.flags().is_top_frame() && !is_handler) || name == "runtime.mcall" {
            return Some(Rule::Root);
        }
        if function.flags().writes_sp() {
            return Some(Rule::NoEntry);
        }
        let depth = i16::try_from(function.sp_delta(lookup)?).ok()?;
        let mut saved = [LOST; SLOTS];
        saved[0] = match depth {
            0 => SAME,
            _ if depth % 8 == 0 => -(depth / 8),
            _ => return None,
        };
        if depth == 0 {
            saved[1] = SAME;
        }
        Some(Rule::Narrow(Narrow {
            cfa_register: SP as u8,
            plt_push: 0,
            plt: false,
            cfa_offset: i32::from(depth),
            saved,
        }))
    }

    fn sets_up_frame(before: &[u8]) -> bool {
        // stp x29, x30, [sp, #-n]!; mov x29, sp. A ret in between ends another function.
        const MOV_FP_SP: u32 = 0x9100_03fd;
        const RET: u32 = 0xd65f_03c0;
        let (_, words) = before.as_rchunks::<4>();
        let words: Vec<u32> = words.iter().map(|w| u32::from_le_bytes(*w)).collect();
        let stores = |w: u32| w & 0xffc0_7fff == 0xa980_7bfd;
        let last = words.windows(2).rposition(|w| stores(w[0]) && w[1] == MOV_FP_SP);
        last.is_some_and(|at| !words[at..].contains(&RET))
    }

    fn frame_size(_: &[u8]) -> Option<u64> {
        // The frame record is at the low end of the frame, so that it does not tell the size.
        None
    }

    fn is_epilogue(_: &[u8]) -> bool {
        // On aarch64 compilers update the rules in epilogues, too.
        false
    }

    /// `sp` is at `struct rt_sigframe` (arch/arm64/kernel/signal.c): `siginfo` (128 bytes), then
    /// `struct ucontext`, whose `uc_mcontext` lies at 176 (`uc_flags`, `uc_link` 8 each,
    /// `uc_stack` 24, `uc_sigmask` with padding 128, aligned to 16). `struct sigcontext`
    /// (uapi/asm/sigcontext.h) is `fault_address`, `regs[31]`, `sp`, `pc`.
    fn read_signal_frame<M: Memory>(sp: Avma, memory: &M) -> Result<Registers, Unreadable> {
        const REGS: u64 = 128 + 176 + 8;
        let mut raw = [0; (PC as usize + 1) * 8];
        memory.read(sp.wrapping_add(REGS), &mut raw)?;
        Ok(Registers::from_words(Self::ARCH, 0..=PC, &raw))
    }

    fn frameless<M: Memory>(
        registers: &Registers,
        sp: Avma,
        _: &M,
    ) -> Result<(u64, u64), Unreadable> {
        registers.get(LR).map(|lr| (lr, sp.0)).ok_or(Unreadable(sp))
    }

    fn execute(code: &[u8], at: Svma, state: &mut State) -> Flow {
        crate::follow::aarch64::execute(code, at, state)
    }

    fn leave(state: &State) -> (Value, Value) {
        crate::follow::aarch64::leave(state)
    }

    fn stage(_: &[u8], at: &[u8]) -> Stage {
        const RET: u32 = 0xd65f_03c0;
        const PACIASP: u32 = 0xd503_233f;
        const BTI_C: u32 = 0xd503_245f;
        let Some(first) = at.first_chunk::<4>() else { return Stage::Body };
        match u32::from_le_bytes(*first) {
            RET | PACIASP | BTI_C => Stage::Frameless,
            // stp x29, x30, [sp, #imm]!
            word if word & 0xffc0_7fff == 0xa980_7bfd => Stage::Frameless,
            _ => Stage::Body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_calls_and_their_targets() {
        let bl = 0x9400_0004_u32.to_le_bytes(); // bl .+16
        assert_eq!(Aarch64::direct_call_target(&bl), Some(12));
        let back = 0x97ff_ffff_u32.to_le_bytes(); // bl .-4
        assert_eq!(Aarch64::direct_call_target(&back), Some(-8));
        for word in [0xd63f_0100_u32, 0xd63f_0910, 0xd73f_0a11, 0xd63f_091f] {
            assert!(Aarch64::ends_with_call(&word.to_le_bytes()), "{word:x}");
        }
        for word in [0xd61f_0100_u32, 0x1400_0004, 0xd65f_03c0] {
            assert!(!Aarch64::ends_with_call(&word.to_le_bytes()), "{word:x}");
        }
    }

    #[test]
    fn prologues_do_not_show_the_size_of_a_frame() {
        // stp x29, x30, [sp, #-32]!; mov x29, sp: there may be more above the frame record.
        let prologue = [0xa9be_7bfd_u32, 0x9100_03fd].map(u32::to_le_bytes).concat();
        assert!(Aarch64::sets_up_frame(&prologue));
        assert_eq!(Aarch64::frame_size(&prologue), None);
    }
}

//! Applies aarch64 instructions to the symbolic state of a frame (Arm ARM, C4.1 and C6.2).

use image::Svma;

use super::state::{Flow, State, Value};
use crate::numbers::aarch64::{LR, SP};

/// x0 to x18 (AAPCS64, 6.1.1).
const CALLER_SAVED: std::ops::RangeInclusive<u16> = 0..=18;
/// The register that the linker's stubs jump to.
const IP1: u16 = 17;

/// Applies the first instruction of `code`: see [`crate::arch::Arch::execute`].
pub(crate) fn execute(code: &[u8], at: Svma, state: &mut State) -> Flow {
    let Some(word) = code.first_chunk::<4>().map(|word| u32::from_le_bytes(*word)) else {
        return Flow::End;
    };
    let next = at.wrapping_add(4);
    if let Some(flow) = branch(word, at, next, state) {
        return flow;
    }
    if !track_frame(word, state) {
        forget_written(word, state);
    }
    Flow::Next(next)
}

/// The CFA and the return address, if the function returns here.
pub(crate) fn leave(state: &State) -> (Value, Value) {
    (state.get(SP), state.get(LR))
}

fn branch(word: u32, at: Svma, next: Svma, state: &mut State) -> Option<Flow> {
    // A sign-extended field that counts words.
    let to = |shift: u32, bits: u32| {
        let words = (word << (32 - bits - shift)).cast_signed() >> (32 - bits);
        at.wrapping_add((i64::from(words) * 4).cast_unsigned())
    };
    let register = (word >> 5 & 31) as u16;
    Some(match word {
        // udf, brk, hlt
        _ if word >> 16 == 0 || word & 0xff80_001f == 0xd400_0000 && word & 0x0060_0000 != 0 => {
            Flow::End
        }
        // b
        _ if word & 0xfc00_0000 == 0x1400_0000 => Flow::Jump(to(0, 26)),
        // bl
        _ if word & 0xfc00_0000 == 0x9400_0000 => {
            called(state);
            Flow::Call(Some(to(0, 26)), next)
        }
        // blr, and its forms with authentication
        _ if word & 0xfeff_f000 == 0xd63f_0000 => {
            called(state);
            Flow::Call(None, next)
        }
        // b.cond, bc.cond; cbz, cbnz; tbz, tbnz
        _ if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 => {
            Flow::Branch(next, to(5, 19))
        }
        _ if word & 0x7e00_0000 == 0x3600_0000 => Flow::Branch(next, to(5, 14)),
        // ret, retaa, retab
        _ if word == 0xd65f_03c0 || word & 0xffff_fbff == 0xd65f_0bff => Flow::Return,
        // br, and its forms with authentication
        _ if word & 0xfeff_f000 == 0xd61f_0000 => match register {
            IP1 => Flow::Return,
            _ => Flow::IndirectJump,
        },
        // svc
        _ if word & 0xffe0_001f == 0xd400_0001 => {
            state.forget(0);
            Flow::Next(next)
        }
        _ => return None,
    })
}

fn called(state: &mut State) {
    CALLER_SAVED.for_each(|register| state.forget(register));
    state.forget(LR);
}

/// Applies an instruction that sets up or tears down frames. Returns false for others.
fn track_frame(word: u32, state: &mut State) -> bool {
    let (first, base, second) =
        ((word & 31) as u16, (word >> 5 & 31) as u16, (word >> 10 & 31) as u16);
    // add and sub of a 12-bit immediate, in which register 31 is the stack pointer
    if word & 0xbf80_0000 == 0x9100_0000 {
        let n = i64::from(word >> 10 & 0xfff) << if word >> 22 & 1 == 1 { 12 } else { 0 };
        let n = if word >> 30 & 1 == 1 { -n } else { n };
        state.set(first, state.get(base).plus(n));
        return true;
    }
    // mov
    if word & 0xffe0_ffe0 == 0xaa00_03e0 {
        let from = (word >> 16 & 31) as u16;
        let value = if from == SP { Value::Unknown } else { state.get(from) };
        set(state, first, value);
        return true;
    }
    let is_load = word >> 22 & 1 == 1;
    // ldp, stp of 64-bit general registers; of others only the effect on the base
    if word & 0x3a00_0000 == 0x2800_0000 {
        let is_vector = word >> 26 & 1 == 1;
        let scale = match (word >> 30, is_vector) {
            (size, true) => 4 << (size & 3),
            (0 | 1, false) => 4,
            _ => 8,
        };
        let n = i64::from((word << 10).cast_signed() >> 25) * scale;
        let of = match (is_vector, word >> 30) {
            (false, 2) => [Some(first), Some(second)],
            _ => [None, None],
        };
        if is_load && !is_vector {
            for register in [first, second] {
                set(state, register, Value::Unknown);
            }
        }
        access(state, base, (word >> 23 & 3, n), is_load, of);
        return true;
    }
    // ldr, str that change the base, of any size; or of 64 bits with an unscaled 9-bit offset
    let is_long = word >> 30 == 3 && word >> 26 & 1 == 0 && word >> 23 & 1 == 0;
    let mode = word >> 10 & 3;
    if word & 0x3b20_0000 == 0x3800_0000 && (mode & 1 == 1 || is_long && mode == 0) {
        let n = i64::from((word << 11).cast_signed() >> 23);
        let register = is_long.then_some(first);
        if !is_long {
            forget_written(word, state);
        }
        let mode = [2, 1, 2, 3][mode as usize];
        access(state, base, (mode, n), is_load, [register, None]);
        return true;
    }
    // ldr, str of 64 bits
    if word & 0xff80_0000 == 0xf900_0000 {
        let n = i64::from(word >> 10 & 0xfff) * 8;
        access(state, base, (2, n), is_load, [Some(first), None]);
        return true;
    }
    false
}

/// Loads or stores 64-bit registers. The mode is that of `ldp`: 1 is post-indexed, 3 pre-indexed.
fn access(
    state: &mut State,
    base: u16,
    (mode, n): (u32, i64),
    is_load: bool,
    registers: [Option<u16>; 2],
) {
    let from = state.get(base);
    let changed = from.plus(n);
    let mut at = if mode == 1 { from } else { changed };
    for register in registers.into_iter().flatten() {
        if is_load {
            set(state, register, state.load(at));
        } else {
            let value = if register == SP { Value::Unknown } else { state.get(register) };
            state.store(at, value);
        }
        at = at.plus(8);
    }
    if mode & 1 == 1 {
        state.set(base, changed);
    }
}

/// Sets a register; number 31 is always zero here.
fn set(state: &mut State, register: u16, value: Value) {
    if register != SP {
        state.set(register, value);
    }
}

/// Makes the register unknown that the instruction writes: nearly always the one in its lowest
/// bits. For other instructions a wrong register is forgotten, which does no harm: a function that
/// changes a callee-saved register restores it before it returns.
fn forget_written(word: u32, state: &mut State) {
    let register = (word & 31) as u16;
    // add and sub of an extended register; and, orr, eor of an immediate; none that sets flags
    let extended = word & 0x3fe0_0000 == 0x0b20_0000;
    let logical = word & 0x1f80_0000 == 0x1200_0000 && word >> 29 & 3 != 3;
    let may_be_sp = extended || logical;
    if register != SP || may_be_sp {
        state.forget(register);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[u32]) -> (State, Flow) {
        let mut state = State::new();
        let mut flow = Flow::End;
        for word in words {
            flow = execute(&word.to_le_bytes(), Svma(0x1000), &mut state);
        }
        (state, flow)
    }

    #[test]
    fn an_epilogue() {
        // ldp x19, x20, [sp, #16]; ldp d8, d9, [sp, #32]; ldp x29, x30, [sp], #48; ret
        let (state, flow) = run(&[0xa941_53f3, 0x6d42_27e8, 0xa8c3_7bfd, 0xd65f_03c0]);
        assert_eq!(flow, Flow::Return);
        assert_eq!(leave(&state), (Value::Start(SP, 48), Value::Word(SP, 8)));
        assert_eq!(state.get(29), Value::Word(SP, 0));
        assert_eq!(state.get(20), Value::Word(SP, 24));
        assert_eq!(state.get(21), Value::Start(21, 0));
    }

    #[test]
    fn a_prologue_and_what_undoes_it() {
        // stp x29, x30, [sp, #-32]!; str x19, [sp, #16]; mov x29, sp; bl .; mov sp, x29
        let set_up = [0xa9be_7bfd, 0xf900_0bf3, 0x9100_03fd, 0x9400_0000, 0x9100_03bf];
        let (state, flow) = run(&set_up);
        assert_eq!(flow, Flow::Next(Svma(0x1004)));
        assert_eq!(state.get(SP), Value::Start(SP, -32));
        assert_eq!(leave(&state).1, Value::Unknown, "bl has changed the link register");
        // ldr x19, [sp, #16]; ldp x29, x30, [sp], #32
        let (state, _) = run(&[&set_up[..], &[0xf940_0bf3, 0xa8c2_7bfd]].concat());
        assert_eq!(leave(&state), (Value::Start(SP, 0), Value::Start(LR, 0)));
        assert_eq!(state.get(19), Value::Start(19, 0));
    }

    #[test]
    fn changes_of_the_stack_pointer() {
        let sp = |words: &[u32]| run(words).0.get(SP);
        // sub sp, sp, #1, lsl #12; add sp, sp, #16
        assert_eq!(sp(&[0xd140_07ff]), Value::Start(SP, -4096));
        assert_eq!(sp(&[0xd140_07ff, 0x9100_43ff]), Value::Start(SP, -4080));
        // str w0, [sp, #-16]!; str x19, [sp, #-16]!; ldr x19, [sp], #16
        assert_eq!(sp(&[0xb81f_0fe0]), Value::Start(SP, -16));
        let (state, _) = run(&[0xf81f_0ff3]);
        assert_eq!(state.get(SP), Value::Start(SP, -16));
        let (state, _) = run(&[0xf81f_0ff3, 0xd280_0013, 0xf841_07f3]);
        assert_eq!((state.get(SP), state.get(19)), (Value::Start(SP, 0), Value::Start(19, 0)));
        // ldur x19, [sp, #8]
        let (state, _) = run(&[0xf840_83f3]);
        assert_eq!((state.get(SP), state.get(19)), (Value::Start(SP, 0), Value::Word(SP, 8)));
    }

    #[test]
    fn stacks_of_unknown_size() {
        // sub sp, sp, x0 (uxtx); and sp, x0, #-16; mov sp, x29
        assert_eq!(run(&[0xcb20_63ff]).0.get(SP), Value::Unknown);
        assert_eq!(run(&[0x927c_ec1f]).0.get(SP), Value::Unknown);
        // tst x1, #2; cmp x1, w2, sxtw
        assert_eq!(run(&[0xf27f_003f, 0xeb22_c03f]).0.get(SP), Value::Start(SP, 0));
        assert_eq!(run(&[0xcb20_63ff, 0x9100_03bf]).0.get(SP), Value::Start(29, 0));
    }

    #[test]
    fn branches() {
        let flow = |word| run(&[word]).1;
        assert_eq!(flow(0x17ff_ffff), Flow::Jump(Svma(0xffc)), "b .-4");
        assert_eq!(flow(0x5400_0040), Flow::Branch(Svma(0x1004), Svma(0x1008)), "b.eq .+8");
        assert_eq!(flow(0xb4ff_ffe0), Flow::Branch(Svma(0x1004), Svma(0xffc)), "cbz x0, .-4");
        assert_eq!(flow(0x3707_ffe0), Flow::Branch(Svma(0x1004), Svma(0xffc)), "tbnz w0, #0, .-4");
        assert_eq!(flow(0xd63f_0060), Flow::Call(None, Svma(0x1004)), "blr x3");
        assert_eq!(flow(0xd61f_0220), Flow::Return, "br x17");
        assert_eq!(flow(0xd61f_0060), Flow::IndirectJump, "br x3");
        assert_eq!(flow(0xd420_0020), Flow::End, "brk #1");
        assert_eq!(flow(0xd400_0001), Flow::Next(Svma(0x1004)), "svc #0");
        assert_eq!(flow(0), Flow::End, "udf #0");
        assert_eq!(flow(0xd503_201f), Flow::Next(Svma(0x1004)), "nop");
    }
}

//! Applies x86-64 instructions to the symbolic state of a frame.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use image::Svma;

use super::state::{Flow, State, Value};
use crate::numbers::x86_64::{RAX, RBP, RDI, RSP};

/// The longest instruction (Intel SDM volume 2, 2.3.11).
const LONGEST: usize = 15;
/// rax, rdx, rcx, rsi, rdi, r8 to r11 (psABI AMD64, figure 3.4), in DWARF numbers.
const CALLER_SAVED: [u16; 9] = [0, 1, 2, 4, 5, 8, 9, 10, 11];

/// Applies the first instruction of `code`: see [`crate::arch::Arch::execute`].
pub(crate) fn execute(code: &[u8], at: Svma, state: &mut State) -> Flow {
    let code = &code[..code.len().min(LONGEST)];
    let mut decoder = Decoder::with_ip(64, code, at.0, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return Flow::End;
    }
    let instruction = decoder.decode();
    let next = Svma(instruction.next_ip());
    match instruction.flow_control() {
        FlowControl::Next => {}
        FlowControl::UnconditionalBranch => return jump(&instruction),
        FlowControl::ConditionalBranch => {
            return match jump(&instruction) {
                Flow::Jump(to) => Flow::Branch(next, to),
                other => other,
            };
        }
        FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
            return Flow::Return;
        }
        FlowControl::IndirectBranch => {
            let to = number(instruction.op0_register()).map(|register| state.get(register));
            return match to {
                Some(Value::Case(table)) => Flow::Switch(Svma(table.into())),
                _ => Flow::IndirectJump,
            };
        }
        FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => return Flow::Return,
        FlowControl::Call | FlowControl::IndirectCall => return call(&instruction, state),
        FlowControl::XbeginXabortXend => return Flow::Next(next),
        FlowControl::Return | FlowControl::Interrupt | FlowControl::Exception => return Flow::End,
    }
    if instruction.mnemonic() == Mnemonic::Hlt {
        return Flow::End;
    }
    if !track_switch(&instruction, state) && !track_frame(&instruction, state) {
        forget_written(&instruction, state);
    }
    Flow::Next(next)
}

/// The CFA and the return address, if the function returns here.
pub(crate) fn leave(state: &State) -> (Value, Value) {
    let sp = state.get(RSP);
    (sp.plus(8), state.load(sp))
}

fn jump(instruction: &Instruction) -> Flow {
    match instruction.op0_kind() {
        OpKind::NearBranch64 => Flow::Jump(Svma(instruction.near_branch_target())),
        _ => Flow::End,
    }
}

fn call(instruction: &Instruction, state: &mut State) -> Flow {
    let next = Svma(instruction.next_ip());
    match instruction.mnemonic() {
        Mnemonic::Call => {}
        // rax, rcx and r11: the kernel preserves all others.
        Mnemonic::Syscall => {
            [RAX, 2, 11].iter().for_each(|register| state.forget(*register));
            return Flow::Next(next);
        }
        _ => return Flow::End,
    }
    CALLER_SAVED.iter().for_each(|register| state.forget(*register));
    let direct = instruction.op0_kind() == OpKind::NearBranch64;
    Flow::Call(direct.then(|| Svma(instruction.near_branch_target())), next)
}

/// Applies an instruction that sets up or tears down frames. Returns false for others.
fn track_frame(instruction: &Instruction, state: &mut State) -> bool {
    let sp = state.get(RSP);
    match instruction.mnemonic() {
        Mnemonic::Push if instruction.stack_pointer_increment() == -8 => {
            let value = operand(instruction, 0, state);
            let top = sp.plus(-8);
            state.set(RSP, top);
            state.store(top, value);
        }
        Mnemonic::Pop if instruction.stack_pointer_increment() == 8 => {
            let value = state.load(sp);
            state.set(RSP, sp.plus(8));
            match number(instruction.op0_register()) {
                Some(register) => state.set(register, value),
                None => state.store(address(instruction, state), value),
            }
        }
        Mnemonic::Leave => {
            let frame = state.get(RBP);
            let value = state.load(frame);
            state.set(RSP, frame.plus(8));
            state.set(RBP, value);
        }
        Mnemonic::Add | Mnemonic::Sub => {
            let (Some(register), Some(n)) =
                (number(instruction.op0_register()), immediate(instruction))
            else {
                return false;
            };
            let by = if instruction.mnemonic() == Mnemonic::Add { n } else { n.wrapping_neg() };
            state.set(register, state.get(register).plus(by));
        }
        Mnemonic::Lea => {
            let Some(register) = number(instruction.op0_register()) else { return false };
            state.set(register, address(instruction, state));
        }
        Mnemonic::Mov | Mnemonic::Movsxd => {
            let to = instruction.op0_register();
            match (instruction.op0_kind(), number(to)) {
                (OpKind::Memory, _) => {
                    let value = operand(instruction, 1, state);
                    state.store(address(instruction, state), value);
                }
                (_, Some(register)) => state.set(register, operand(instruction, 1, state)),
                // `main` returns 32 bits, which are passed to `exit`.
                _ if (to, instruction.op1_register()) == (Register::EDI, Register::EAX) => {
                    state.set(RDI, state.get(RAX));
                }
                _ => return false,
            }
        }
        _ => match instruction.stack_pointer_increment() {
            0 => return false,
            n => {
                forget_written(instruction, state);
                state.set(RSP, sp.plus(n.into()));
            }
        },
    }
    true
}

/// Applies an instruction of a `switch` as compilers write it. Returns false for others.
///
/// ```text
/// lea table(%rip), %rsi;  movslq (%rsi,%rax,4), %rax;  add %rsi, %rax;  jmp *%rax
/// ```
fn track_switch(instruction: &Instruction, state: &mut State) -> bool {
    let Some(register) = number(instruction.op0_register()) else { return false };
    let before = state.get(register);
    let base = |state: &State| number(instruction.memory_base()).map(|base| state.get(base));
    let value = match instruction.mnemonic() {
        Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
            u32::try_from(instruction.ip_rel_memory_address()).ok().map(Value::Table)
        }
        Mnemonic::Movsxd if instruction.memory_index_scale() == 4 => match base(state) {
            Some(Value::Table(table)) => Some(Value::Entry(table)),
            _ => None,
        },
        Mnemonic::Add => {
            let added = number(instruction.op1_register()).map(|register| state.get(register));
            match (before, added) {
                (Value::Entry(one), Some(Value::Table(other)))
                | (Value::Table(one), Some(Value::Entry(other))) => {
                    (one == other).then_some(Value::Case(one))
                }
                _ => None,
            }
        }
        _ => None,
    };
    value.inspect(|value| state.set(register, *value)).is_some()
}

/// Makes all registers unknown that the instruction writes.
fn forget_written(instruction: &Instruction, state: &mut State) {
    let mut factory = InstructionInfoFactory::new();
    for used in factory.info(instruction).used_registers() {
        let written =
            !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
        if let Some(register) = number(used.register().full_register()).filter(|_| written) {
            state.forget(register);
        }
    }
}

/// The value of a 64-bit operand.
fn operand(instruction: &Instruction, index: u32, state: &State) -> Value {
    match instruction.op_kind(index) {
        OpKind::Register => number(instruction.op_register(index))
            .map_or(Value::Unknown, |register| state.get(register)),
        OpKind::Memory if instruction.memory_size().size() == 8 => {
            state.load(address(instruction, state))
        }
        _ => Value::Unknown,
    }
}

/// The address of a memory operand, if it is a register plus a displacement.
fn address(instruction: &Instruction, state: &State) -> Value {
    let has_segment = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    if has_segment || instruction.memory_index() != Register::None {
        return Value::Unknown;
    }
    let base = number(instruction.memory_base()).map_or(Value::Unknown, |n| state.get(n));
    base.plus(instruction.memory_displacement64().cast_signed())
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    use OpKind::{Immediate8to64, Immediate32to64};
    let kind = instruction.op1_kind();
    let is_one = matches!(kind, Immediate8to64 | Immediate32to64);
    is_one.then(|| instruction.immediate(1).cast_signed())
}

/// The DWARF number of a 64-bit general register.
fn number(register: Register) -> Option<u16> {
    // In the order of their encoding: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    const DWARF: [u16; 16] = [0, 2, 1, 3, RSP, RBP, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
    register.is_gpr64().then(|| DWARF[register.number() & 15])
}

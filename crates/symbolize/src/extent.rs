//! Finds the end of a function whose symbol has no size, as in hand-written assembly.
//!
//! It ends at the next symbol, or before if its code does: in musl's `libc.so`, `memset` is
//! followed by functions without a symbol (such as the system call that threads wait in), which
//! would otherwise get its name.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind};

/// Limit of the code that is decoded, in bytes; longer functions end at the next symbol.
const LONGEST: usize = 64 << 10;

/// The end address of the x86-64 function whose code starts with `code`, at address `start`: after
/// the first instruction that does not continue to the next one, and that no jump in the function
/// goes beyond. `None` if there is no such instruction.
pub(crate) fn code_end(code: &[u8], start: u64) -> Option<u64> {
    let code = &code[..code.len().min(LONGEST)];
    let limit = start.checked_add(code.len() as u64)?;
    let mut furthest = start;
    for instruction in Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
        let jumps = instruction.op0_kind() == OpKind::NearBranch64;
        let target = instruction.near_branch_target();
        let ends = match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch if jumps => {
                if (start..limit).contains(&target) {
                    furthest = furthest.max(target);
                }
                instruction.flow_control() == FlowControl::UnconditionalBranch
            }
            FlowControl::Return | FlowControl::Exception => !instruction.is_invalid(),
            // The targets of a jump table are unknown.
            FlowControl::IndirectBranch => return None,
            _ => instruction.mnemonic() == Mnemonic::Hlt,
        };
        if instruction.is_invalid() {
            return None;
        }
        if ends && instruction.next_ip() > furthest {
            return Some(instruction.next_ip());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_after_the_last_return_that_is_jumped_to() {
        // test %edi,%edi; je 1f; ret; 1: nop; ret; nop
        let code = b"\x85\xff\x74\x01\xc3\x90\xc3\x90";
        assert_eq!(code_end(code, 0x1000), Some(0x1007));
        // A jump out of the function is a tail call, a jump backwards a loop.
        assert_eq!(code_end(b"\xe9\0\x10\0\0\xc3", 0x1000), Some(0x1005));
        assert_eq!(code_end(b"\x90\xeb\xfd\xc3", 0x1000), Some(0x1003));
        // ud2; hlt
        assert_eq!(code_end(b"\x0f\x0b\xc3", 0x1000), Some(0x1002));
        assert_eq!(code_end(b"\xf4\xc3", 0x1000), Some(0x1001));
    }

    #[test]
    fn the_end_is_unknown_without_a_final_instruction() {
        assert_eq!(code_end(b"\x90\x90", 0x1000), None);
        assert_eq!(code_end(b"\xff\xe0\xc3", 0x1000), None, "jmp *%rax");
        assert_eq!(code_end(b"\x06\xc3", 0x1000), None, "not an instruction");
        assert_eq!(code_end(b"", 0x1000), None);
        assert_eq!(code_end(b"\xc3", u64::MAX), None);
    }
}

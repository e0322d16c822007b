//! How far a function goes whose symbol has no size, as those of hand-written assembly.
//!
//! To the next symbol, unless its code ends before: in musl's `libc.so` some functions that no symbol
//! tells of (the system call that threads wait in) come after `memset`, and were taken for it.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind};

/// A longer function goes on to the next symbol, whatever its code says.
const LONGEST: usize = 64 << 10;

/// Where the x86-64 code of the function ends that begins with `code`, at `start`: behind the first
/// instruction after which nothing follows and that no jump within the function goes beyond. `None`
/// where there is none.
pub(crate) fn end_of(code: &[u8], start: u64) -> Option<u64> {
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
            // Where a table of jumps leads to is not known.
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
    fn to_the_last_return_that_is_jumped_to() {
        // test %edi,%edi; je 1f; ret; 1: nop; ret; nop
        let code = b"\x85\xff\x74\x01\xc3\x90\xc3\x90";
        assert_eq!(end_of(code, 0x1000), Some(0x1007));
        // A jump out of it is a call; one backwards a loop.
        assert_eq!(end_of(b"\xe9\0\x10\0\0\xc3", 0x1000), Some(0x1005));
        assert_eq!(end_of(b"\x90\xeb\xfd\xc3", 0x1000), Some(0x1003));
        // ud2; hlt
        assert_eq!(end_of(b"\x0f\x0b\xc3", 0x1000), Some(0x1002));
        assert_eq!(end_of(b"\xf4\xc3", 0x1000), Some(0x1001));
    }

    #[test]
    fn unknown_where_the_code_does_not_tell() {
        assert_eq!(end_of(b"\x90\x90", 0x1000), None);
        assert_eq!(end_of(b"\xff\xe0\xc3", 0x1000), None, "jmp *%rax");
        assert_eq!(end_of(b"\x06\xc3", 0x1000), None, "not an instruction");
        assert_eq!(end_of(b"", 0x1000), None);
        assert_eq!(end_of(b"\xc3", u64::MAX), None);
    }
}

//! Evaluates DWARF expressions of call frame information, with a limit of operations.

use gimli::{EvaluationResult, Location};
use image::{Avma, Bias, Memory, Svma};

use crate::cfi::Reader;
use crate::end::{BreakReason, unreadable};
use crate::{End, Registers};

/// Limit of operations: a hostile expression loops forever.
const MAX_OPERATIONS: u32 = 1000;

/// The inputs of an expression.
pub(crate) struct EvaluationContext<'a, M> {
    pub(crate) registers: &'a Registers,
    pub(crate) memory: &'a M,
    pub(crate) bias: Bias,
    pub(crate) encoding: gimli::Encoding,
    /// The CFA, the initial value of a register's expression; `None` for the expression of the CFA
    /// itself.
    pub(crate) cfa: Option<u64>,
}

impl<M: Memory> EvaluationContext<'_, M> {
    /// The value (or address) that the expression results in.
    pub(crate) fn evaluate(&self, expression: &[u8]) -> Result<u64, End> {
        let failed = |_| End::Broken(BreakReason::BadExpression);
        let reader = Reader::new(expression, gimli::LittleEndian);
        let mut evaluation = gimli::Expression(reader).evaluation(self.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(cfa) = self.cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut state = evaluation.evaluate().map_err(failed)?;
        loop {
            let next = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size, space: None, .. } => {
                    evaluation.resume_with_memory(generic(self.load(address, size)?))
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    let unknown = End::Broken(BreakReason::UnknownRegister(register.0));
                    let value = self.registers.get(register.0).ok_or(unknown)?;
                    evaluation.resume_with_register(generic(value))
                }
                EvaluationResult::RequiresCallFrameCfa => {
                    let cfa = self.cfa.ok_or(End::Broken(BreakReason::BadExpression))?;
                    evaluation.resume_with_call_frame_cfa(cfa)
                }
                EvaluationResult::RequiresRelocatedAddress(svma) => {
                    evaluation.resume_with_relocated_address(self.bias.to_avma(Svma(svma)).0)
                }
                // Frame bases, thread-local storage and types need debug information, to which call
                // frame information cannot refer.
                _ => return Err(End::Broken(BreakReason::BadExpression)),
            };
            state = next.map_err(failed)?;
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => Ok(address),
                Location::Value { value } => value.to_u64(u64::MAX).map_err(failed),
                Location::Register { register } => self
                    .registers
                    .get(register.0)
                    .ok_or(End::Broken(BreakReason::UnknownRegister(register.0))),
                _ => Err(End::Broken(BreakReason::BadExpression)),
            },
            _ => Err(End::Broken(BreakReason::BadExpression)),
        }
    }

    fn load(&self, address: u64, size: u8) -> Result<u64, End> {
        let mut word = [0; 8];
        let bytes =
            word.get_mut(..usize::from(size)).ok_or(End::Broken(BreakReason::BadExpression))?;
        let sp = self.registers.sp().unwrap_or_default();
        self.memory.read(Avma(address), bytes).map_err(|_| unreadable(sp, Avma(address)))?;
        Ok(u64::from_le_bytes(word))
    }
}

fn generic(value: u64) -> gimli::Value {
    gimli::Value::Generic(value)
}

#[cfg(test)]
mod tests {
    use image::{Arch, Unreadable};

    use super::*;

    /// Bytes from address 0x1000 on.
    struct Bytes(&'static [u8]);

    impl Memory for Bytes {
        fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
            let at = addr.0.checked_sub(0x1000).ok_or(Unreadable(addr))? as usize;
            buf.copy_from_slice(self.0.get(at..at + buf.len()).ok_or(Unreadable(addr))?);
            Ok(())
        }
    }

    fn evaluate(expression: &[u8], cfa: Option<u64>) -> Result<u64, End> {
        let mut registers = Registers::unknown(Arch::X86_64);
        registers.set(3, 0x1000);
        registers.set_sp(Avma(0x2000));
        let encoding =
            gimli::Encoding { format: gimli::Format::Dwarf32, version: 4, address_size: 8 };
        let memory = &Bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let bias = Bias(0x10_0000);
        EvaluationContext { registers: &registers, memory, bias, encoding, cfa }
            .evaluate(expression)
    }

    #[test]
    fn registers_memory_and_the_cfa_can_be_used() {
        // breg3 1; and with deref, and with deref_size 2
        assert_eq!(evaluate(&[0x73, 1], None), Ok(0x1001));
        assert_eq!(evaluate(&[0x73, 1, 0x06], None), Ok(0x0908_0706_0504_0302));
        assert_eq!(evaluate(&[0x73, 1, 0x94, 2], None), Ok(0x0302));
        // The CFA is on the stack: plus_uconst 8; or call_frame_cfa
        assert_eq!(evaluate(&[0x23, 8], Some(0x40)), Ok(0x48));
        assert_eq!(evaluate(&[0x9c], Some(0x40)), Ok(0x40));
        // addr 0x10, which is relative to the image
        assert_eq!(evaluate(&[0x03, 0x10, 0, 0, 0, 0, 0, 0, 0], None), Ok(0x10_0010));
        // reg3
        assert_eq!(evaluate(&[0x53], None), Ok(0x1000));
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let bad = Err(End::Broken(BreakReason::BadExpression));
        assert_eq!(evaluate(&[0x9c], None), bad, "the CFA's own expression");
        assert_eq!(evaluate(&[], None), bad);
        assert_eq!(evaluate(&[0x2f, 0xfd, 0xff], None), bad, "it jumps to itself");
        let unknown = Err(End::Broken(BreakReason::UnknownRegister(4)));
        assert_eq!(evaluate(&[0x74, 0], None), unknown);
        assert_eq!(evaluate(&[0x54], None), unknown);
        let truncated = End::Truncated { sp: Avma(0x2000), unreadable: Avma(0x1002) };
        assert_eq!(evaluate(&[0x73, 2, 0x06], None), Err(truncated));
    }
}

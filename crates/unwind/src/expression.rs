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

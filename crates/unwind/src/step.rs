//! Steps from a frame to the frame that called it.

use image::{AddressSpace, Avma, Bias, Memory};

use crate::arch::Arch;
use crate::end::{BreakReason, NULL_PAGE, RootReason, broken, unreadable};
use crate::expression::EvaluationContext;
use crate::frame::{Cursor, FrameKind};
use crate::modules::{Code, Module, Modules};
use crate::registers::COUNT;
use crate::rule::{LOST, Narrow, Rule, SAME, SLOTS, Value};
use crate::tables::Tables;
use crate::{End, Registers};

/// Limit of changes to a stack at a lower address within one stack, apart from signal frames.
/// rustc's `stacker` makes such changes.
const MAX_SWITCHES: u8 = 8;

/// The inputs of a step, and the caches for one stack.
pub(crate) struct Stepper<'a, M> {
    pub(crate) tables: &'a mut Tables,
    pub(crate) modules: Modules<'a>,
    pub(crate) memory: &'a M,
    pub(crate) pac_mask: u64,
    /// The mapping at the cursor's look-up address.
    current: Option<Module>,
}

impl<'a, M: Memory> Stepper<'a, M> {
    pub(crate) fn new(
        tables: &'a mut Tables,
        space: &'a AddressSpace,
        memory: &'a M,
        pac_mask: u64,
    ) -> Self {
        Self { tables, modules: Modules::new(space), memory, pac_mask, current: None }
    }

    /// The mapping at an address.
    #[inline]
    pub(crate) fn module<A: Arch>(&mut self, addr: Avma) -> Option<Module> {
        self.modules.find::<A>(self.tables, addr)
    }

    /// The mapping at the cursor's look-up address, looked up once per frame.
    #[inline]
    pub(crate) fn current_module<A: Arch>(&mut self, cursor: &Cursor) -> Option<&Module> {
        if !self.current.as_ref().is_some_and(|module| module.contains(cursor.lookup_address())) {
            self.current = self.module::<A>(cursor.lookup_address());
        }
        self.current.as_ref()
    }

    /// Moves the cursor to the calling frame. If there is none, returns why and leaves the cursor
    /// unchanged.
    #[inline]
    pub(crate) fn advance<A: Arch>(&mut self, cursor: &mut Cursor) -> Result<(), End> {
        let Some(module) = self.current_module::<A>(cursor) else {
            return self.without_rule::<A>(cursor, None, None);
        };
        let Some((image, bias)) = module.image else {
            return self.without_rule::<A>(cursor, self.current, None);
        };
        let svma = bias.to_svma(cursor.pc);
        // A branch of its own, so that no jump table is mispredicted for nearly every frame.
        match self.tables.rule::<A>(image, svma, cursor.kind.is_exact()) {
            Rule::Narrow(rule) => self.apply_narrow::<A>(&rule, cursor),
            rule => self.apply_rare::<A>(rule, bias, cursor),
        }
    }

    #[cold]
    #[inline(never)]
    fn apply_rare<A: Arch>(
        &mut self,
        rule: Rule,
        bias: Bias,
        cursor: &mut Cursor,
    ) -> Result<(), End> {
        match rule {
            Rule::Narrow(rule) => self.apply_narrow::<A>(&rule, cursor),
            Rule::Wide(index) => self.apply_wide::<A>(index, bias, cursor),
            Rule::SignalFrame => self.signal_frame::<A>(cursor),
            Rule::Root => Err(End::Root(RootReason::Undefined)),
            Rule::ContextStart => Err(End::Root(RootReason::ContextStart)),
            Rule::NoEntry => self.without_rule::<A>(cursor, self.current, None),
            Rule::Followed(index) => self.without_rule::<A>(cursor, self.current, Some(index)),
            Rule::Bad => broken(BreakReason::BadCfi),
        }
    }

    // Zipped iterators are not unrolled here, and this is the profiler's hottest loop.
    #[inline]
    pub(crate) fn apply_narrow<A: Arch>(
        &mut self,
        rule: &Narrow,
        cursor: &mut Cursor,
    ) -> Result<(), End> {
        let register = u16::from(rule.cfa_register);
        let Some(base) = cursor.registers.get(register) else {
            return broken(BreakReason::UnknownRegister(register));
        };
        let pushed = rule.plt && cursor.pc.0 & 15 >= u64::from(rule.plt_push);
        let cfa = base
            .wrapping_add(i64::from(rule.cfa_offset).cast_unsigned())
            .wrapping_add(if pushed { 8 } else { 0 });
        let by_sp = register == A::SP;
        check_cfa::<A>(cursor, cfa, by_sp)?;
        let slot = |n: i16| Avma(cfa.wrapping_add((i64::from(n) * 8).cast_unsigned()));
        let return_address = match rule.saved[0] {
            SAME => link_register::<A>(cursor)?,
            n => self.word(cursor, slot(n))?,
        };
        let pc = self.check_return::<A>(cursor, cfa, return_address)?;
        let mut values = [0; SLOTS];
        let mut saved = rule.saved;
        for i in 1..A::SAVED.len() {
            let n = saved[i];
            if n == SAME || n == LOST {
                continue;
            }
            let at = slot(n);
            if at < cursor.floor {
                saved[i] = self.below_stack::<A>(cursor);
            } else {
                values[i] = self.word(cursor, at)?;
            }
        }
        for i in 1..A::SAVED.len() {
            match saved[i] {
                SAME => {}
                LOST => cursor.registers.forget(A::SAVED[i]),
                _ => cursor.registers.set(A::SAVED[i], values[i]),
            }
        }
        cursor.registers.set(A::RA, return_address);
        cursor.registers.set(A::SP, cfa);
        cursor.enter::<A>(pc, cfa, FrameKind::Return);
        Ok(())
    }

    /// Handles a register whose slot is below the stack pointer. After a pop GCC still names the
    /// slot, and the register already has the caller's value. Otherwise the slot is in the red
    /// zone, which is not recorded.
    #[cold]
    fn below_stack<A: Arch>(&mut self, cursor: &Cursor) -> i16 {
        let Some(module) = self.current else { return LOST };
        let code = Code::around(self.tables, &module, cursor.pc, self.memory);
        if A::is_epilogue(code.at()) { SAME } else { LOST }
    }

    #[inline]
    pub(crate) fn word(&self, cursor: &Cursor, at: Avma) -> Result<u64, End> {
        self.memory.read_u64(at).map_err(|_| unreadable(cursor.floor, at))
    }

    /// Checks that the calling frame is plausible, and returns its program counter.
    #[inline]
    pub(crate) fn check_return<A: Arch>(
        &mut self,
        cursor: &Cursor,
        cfa: u64,
        return_address: u64,
    ) -> Result<Avma, End> {
        if return_address == 0 {
            return Err(End::Root(RootReason::NullReturn));
        }
        let pc = Avma(return_address & !self.pac_mask);
        let lookup = pc.wrapping_sub(1);
        if !self.current.as_ref().is_some_and(|module| module.contains(lookup))
            && self.module::<A>(lookup).is_none()
        {
            return broken(BreakReason::ReturnAddressNotCode);
        }
        // On another stack, only a call before the return address confirms the frame.
        if cfa < cursor.floor.0 && self.follows_call::<A>(pc) != Some(true) {
            return broken(BreakReason::CfaBelowSp);
        }
        Ok(pc)
    }

    /// Whether a call precedes the address; `None` if the code cannot be read.
    pub(crate) fn follows_call<A: Arch>(&mut self, pc: Avma) -> Option<bool> {
        let module = self.module::<A>(pc.wrapping_sub(1))?;
        let code = Code::around(self.tables, &module, pc, self.memory);
        (!code.before().is_empty()).then(|| A::ends_with_call(code.before()))
    }

    #[cold]
    fn signal_frame<A: Arch>(&mut self, cursor: &mut Cursor) -> Result<(), End> {
        let Some(sp) = cursor.registers.get(A::SP).map(Avma) else {
            return broken(BreakReason::UnknownRegister(A::SP));
        };
        let registers =
            A::read_signal_frame(sp, self.memory).map_err(|at| unreadable(cursor.floor, at.0))?;
        cursor.interrupt(registers)
    }

    #[cold]
    fn apply_wide<A: Arch>(
        &mut self,
        index: u32,
        bias: Bias,
        cursor: &mut Cursor,
    ) -> Result<(), End> {
        let Some(rule) = self.tables.wide(index) else { return broken(BreakReason::BadCfi) };
        let mut from = EvaluationContext {
            registers: &cursor.registers,
            memory: self.memory,
            bias,
            encoding: rule.encoding,
            cfa: None,
        };
        let by_sp = matches!(rule.cfa, Value::Register(register, _) if register == A::SP);
        let Some(cfa) = self.value(&rule.cfa, &from, cursor)? else {
            return broken(BreakReason::BadCfi);
        };
        if !rule.signal {
            check_cfa::<A>(cursor, cfa, by_sp)?;
        }
        from.cfa = Some(cfa);
        let mut registers = cursor.registers;
        registers.set(A::SP, cfa);
        let mut return_address = None;
        for (register, value) in &rule.registers {
            let known = match value {
                Value::Same => cursor.registers.get(*register),
                value if *register == rule.return_address => {
                    return_address = self.value(value, &from, cursor)?;
                    return_address
                }
                // In the epilogue of a realigned stack, GCC still says after `leave` that rbp is
                // saved at [rbp], which may not exist. The frame is valid without it.
                value => self.value(value, &from, cursor).unwrap_or(None),
            };
            match known {
                Some(value) => registers.set(*register, value),
                None => registers.forget(*register),
            }
        }
        if rule.signal {
            if let Some(pc) = return_address {
                registers.set(A::PC, pc & !self.pac_mask);
            }
            return cursor.interrupt(registers);
        }
        let return_address = match return_address {
            Some(address) if usize::from(rule.return_address) < COUNT => address,
            _ => link_register::<A>(cursor)?,
        };
        let pc = self.check_return::<A>(cursor, cfa, return_address)?;
        let sp = registers.get(A::SP).unwrap_or(cfa);
        cursor.registers = registers;
        cursor.registers.set(A::RA, return_address);
        cursor.enter::<A>(pc, sp, FrameKind::Return);
        Ok(())
    }

    /// The value of a wide rule's register; `None` if it is lost.
    fn value(
        &self,
        value: &Value,
        from: &EvaluationContext<'_, M>,
        cursor: &Cursor,
    ) -> Result<Option<u64>, End> {
        let cfa = from.cfa.unwrap_or(0);
        let register = |number: u16, offset: i64| {
            let unknown = End::Broken(BreakReason::UnknownRegister(number));
            let base = from.registers.get(number).ok_or(unknown)?;
            Ok(base.wrapping_add(offset.cast_unsigned()))
        };
        let word = |address: u64| self.word(cursor, Avma(address));
        Ok(Some(match value {
            Value::Undefined | Value::Same => return Ok(None),
            Value::AtCfa(n) => word(cfa.wrapping_add(n.cast_unsigned()))?,
            Value::Cfa(n) => cfa.wrapping_add(n.cast_unsigned()),
            Value::Register(number, n) => register(*number, *n)?,
            Value::AtRegister(number, n) => word(register(*number, *n)?)?,
            Value::Constant(value) => *value,
            Value::AtExpression(e) => word(from.evaluate(e)?)?,
            Value::Expression(e) => from.evaluate(e)?,
        }))
    }
}

/// Checks that the caller's frame can be at the CFA: above the callee's, or else on another stack.
#[inline]
pub(crate) fn check_cfa<A: Arch>(cursor: &Cursor, cfa: u64, by_sp: bool) -> Result<(), End> {
    if cfa & 7 != 0 || cfa < NULL_PAGE {
        return broken(BreakReason::BadCfa);
    }
    let floor = cursor.floor.0;
    // A function that keeps its return address in the link register need not use its stack.
    if cfa > floor || (cfa == floor && A::HAS_LINK_REGISTER && cursor.kind.is_exact()) {
        return Ok(());
    }
    if cfa == floor {
        return Err(no_progress::<A>(&cursor.registers));
    }
    if by_sp || cursor.switches >= MAX_SWITCHES {
        return broken(BreakReason::CfaBelowSp);
    }
    Ok(())
}

/// The return address in the link register, which is only valid in a leaf.
fn link_register<A: Arch>(cursor: &Cursor) -> Result<u64, End> {
    if !A::HAS_LINK_REGISTER {
        return broken(BreakReason::BadCfi);
    }
    if !cursor.kind.is_exact() {
        return Err(no_progress::<A>(&cursor.registers));
    }
    cursor.registers.get(A::RA).ok_or(End::Broken(BreakReason::UnknownRegister(A::RA)))
}

/// Why a stack ends at a frame that would be its own caller. In some glibc versions aarch64's
/// `_start` is one: it does not say that its return address is undefined, but clears the frame
/// pointer.
fn no_progress<A: Arch>(registers: &Registers) -> End {
    match registers.get(A::FP) {
        Some(0) if A::HAS_LINK_REGISTER => End::Root(RootReason::FrameChainEnd),
        _ => End::Broken(BreakReason::Loop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::Aarch64;
    use crate::x86_64::X86_64;

    #[test]
    fn only_a_cleared_frame_pointer_of_aarch64_makes_a_frame_without_progress_the_root() {
        let with = |arch, number, fp| {
            let mut registers = Registers::unknown(arch);
            registers.set(number, fp);
            registers
        };
        let aarch64 = |fp| no_progress::<Aarch64>(&with(image::Arch::Aarch64, Aarch64::FP, fp));
        let x86_64 = |fp| no_progress::<X86_64>(&with(image::Arch::X86_64, X86_64::FP, fp));
        assert_eq!(aarch64(0), End::Root(RootReason::FrameChainEnd));
        for end in [aarch64(8), x86_64(0), x86_64(8)] {
            assert_eq!(end, End::Broken(BreakReason::Loop));
        }
    }

    /// Code at an address that no image covers.
    struct CodeAt(u64, [u8; 16]);

    impl Memory for CodeAt {
        fn read(&self, addr: Avma, out: &mut [u8]) -> Result<(), image::Unreadable> {
            if addr != Avma(self.0) || out.len() != 16 {
                return Err(image::Unreadable(addr));
            }
            out.copy_from_slice(&self.1);
            Ok(())
        }
    }

    #[test]
    fn a_register_saved_below_the_stack_is_kept_in_an_epilogue_and_lost_elsewhere() {
        const PC: u64 = 0x1800;
        let below = |start: &[u8], is_mapped: bool| {
            let mut code = [0x90; 16];
            code[..start.len()].copy_from_slice(start);
            let memory = CodeAt(PC, code);
            let mut space = AddressSpace::default();
            let mapping = image::NewMapping {
                start: Avma(0x1000),
                end: Avma(0x2000),
                offset: image::FileOffset(0),
                name: "".into(),
                file: None,
                kind: image::MappingKind::Anonymous,
                image: Err(image::ImageAbsence::Anonymous),
            };
            space.insert(image::MappingId(1), mapping);
            let mut registers = Registers::unknown(image::Arch::X86_64);
            registers.set(X86_64::PC, if is_mapped { PC } else { 0x3000 });
            let cursor = Cursor::new(&registers, None);
            let mut tables = Tables::new();
            let mut stepper = Stepper::new(&mut tables, &space, &memory, 0);
            stepper.current_module::<X86_64>(&cursor);
            stepper.below_stack::<X86_64>(&cursor)
        };
        // pop %rbp; ret
        assert_eq!(below(b"\x5d\xc3", true), SAME);
        assert_eq!(below(b"\x90\xc3", true), LOST);
        assert_eq!(below(b"\x5d\xc3", false), LOST);
    }
}

//! Compiles rows of call frame information (CFI) to unwind rules.
//!
//! A row says how to find the caller's registers. Nearly all rows of compiled code have one form,
//! which fits half a cache line and is applied with a few reads:
//!
//! ```text
//!   CFA      = register + offset
//!   saved[i] = [CFA + 8·n]      for the ABI's callee-saved registers and the return address
//! ```
//!
//! Other rows become a [`WideRule`], which can express all of DWARF and is stored separately.

use gimli::{CfaRule, Operation, RegisterRule, UnwindTableRow};

use crate::arch::Arch;
use crate::cfi::{Frames, Reader};

/// Number of registers with a slot in a narrow rule.
pub(crate) const SLOTS: usize = 12;
/// A slot's value for a register that keeps its value.
pub(crate) const SAME: i16 = 0;
/// A slot's value for a register whose value is lost.
pub(crate) const LOST: i16 = i16::MIN;
/// Limit of the length of an expression, in bytes; compilers write far shorter ones.
const MAX_EXPRESSION: usize = 4096;

/// The cached rule of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The common case.
    Narrow(Narrow),
    /// An index into the wide rules.
    Wide(u32),
    /// The stack pointer points to a signal frame of the kernel.
    SignalFrame,
    /// The return address is undefined: the outermost frame.
    Root,
    /// A return address that no call put there: a context starts here.
    ContextStart,
    /// No entry covers the address.
    NoEntry,
    /// No entry covers the address, but following the code gave a result: its index.
    Followed(u32),
    /// The entry that covers the address is not usable.
    Bad,
}

impl Rule {
    /// Whether no entry covers the address.
    pub(crate) fn is_without_entry(self) -> bool {
        matches!(self, Self::NoEntry | Self::Followed(_))
    }
}

/// The common form of a rule: see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Narrow {
    /// The CFA is `cfa_register + cfa_offset`, plus 8 in part of a PLT stub (see `plt_push`).
    pub(crate) cfa_register: u8,
    /// If `plt`: the offset within the 16-byte stub from which on 8 is added to the CFA.
    pub(crate) plt_push: u8,
    /// The code is an x86-64 procedure linkage table. (The `bool` also leaves room for the tag of
    /// [`Rule`].)
    pub(crate) plt: bool,
    /// See `cfa_register`.
    pub(crate) cfa_offset: i32,
    /// In the order of [`Arch::SAVED`]: [`SAME`], [`LOST`] or the offset from the CFA in words.
    pub(crate) saved: [i16; SLOTS],
}

/// A rule that can express any row.
#[derive(Debug)]
pub(crate) struct WideRule {
    /// The canonical frame address.
    pub(crate) cfa: Value,
    /// The column of the return address.
    pub(crate) return_address: u16,
    /// The rules of all registers that have one.
    pub(crate) registers: Box<[(u16, Value)]>,
    /// The frame is that of a signal trampoline: its caller was interrupted.
    pub(crate) signal: bool,
    /// The encoding of the expressions.
    pub(crate) encoding: gimli::Encoding,
}

/// How to find the value of a register in the calling frame.
#[derive(Debug)]
pub(crate) enum Value {
    /// Unchanged.
    Same,
    /// Lost.
    Undefined,
    /// In memory at CFA + n.
    AtCfa(i64),
    /// CFA + n.
    Cfa(i64),
    /// Register + n.
    Register(u16, i64),
    /// In memory at register + n.
    AtRegister(u16, i64),
    /// A constant.
    Constant(u64),
    /// In memory at the address that the expression evaluates to.
    AtExpression(Box<[u8]>),
    /// The value that the expression evaluates to.
    Expression(Box<[u8]>),
}

/// A compiled row; a wide rule has no index yet.
pub(crate) enum Compiled {
    Rule(Rule),
    Wide(WideRule),
}

type Row<S> = UnwindTableRow<usize, S>;

/// Compiles a row; `None` if it cannot be represented.
pub(crate) fn compile<A: Arch, S>(
    row: &Row<S>,
    return_address: u16,
    signal: bool,
    encoding: gimli::Encoding,
    section: Frames<'_>,
) -> Option<Compiled>
where
    S: gimli::UnwindContextStorage<usize>,
{
    if matches!(row.register(gimli::Register(return_address)), Some(RegisterRule::Undefined)) {
        return Some(Compiled::Rule(Rule::Root));
    }
    let is_plain = !signal && return_address == A::RA;
    if let Some(narrow) = is_plain.then(|| narrow::<A, S>(row, section)).flatten() {
        return Some(Compiled::Rule(Rule::Narrow(narrow)));
    }
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Value::Register(register.0, *offset),
        CfaRule::Expression(expression) => {
            value_of(bytes_of(section, expression)?, encoding, false)
        }
    };
    let mut registers = Vec::new();
    for (register, rule) in row.registers() {
        registers.push((register.0, wide_value(rule, encoding, section)?));
    }
    let registers = registers.into();
    Some(Compiled::Wide(WideRule { cfa, return_address, registers, signal, encoding }))
}

fn wide_value(
    rule: &RegisterRule<usize>,
    encoding: gimli::Encoding,
    section: Frames<'_>,
) -> Option<Value> {
    Some(match rule {
        RegisterRule::Undefined => Value::Undefined,
        RegisterRule::SameValue => Value::Same,
        RegisterRule::Offset(n) => Value::AtCfa(*n),
        RegisterRule::ValOffset(n) => Value::Cfa(*n),
        RegisterRule::Register(register) => Value::Register(register.0, 0),
        RegisterRule::Constant(value) => Value::Constant(*value),
        RegisterRule::Expression(e) => value_of(bytes_of(section, e)?, encoding, true),
        RegisterRule::ValExpression(e) => value_of(bytes_of(section, e)?, encoding, false),
        _ => return None,
    })
}

/// The narrow form of a row, if it has one.
fn narrow<A: Arch, S>(row: &Row<S>, section: Frames<'_>) -> Option<Narrow>
where
    S: gimli::UnwindContextStorage<usize>,
{
    let (register, offset, push) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => (register.0, *offset, None),
        CfaRule::Expression(e) => (A::SP, 8, Some(plt_push::<A>(bytes_of(section, e)?)?)),
    };
    let mut narrow = Narrow {
        cfa_register: u8::try_from(register).ok()?,
        plt_push: push.unwrap_or(0),
        plt: push.is_some(),
        cfa_offset: i32::try_from(offset).ok()?,
        saved: [SAME; SLOTS],
    };
    for (register, rule) in row.registers() {
        let Some(slot) = A::SAVED.iter().position(|saved| *saved == register.0) else {
            // Vector registers and pseudo registers are not needed to unwind.
            if usize::from(register.0) < crate::registers::COUNT {
                return None;
            }
            continue;
        };
        narrow.saved[slot] = match rule {
            RegisterRule::SameValue => SAME,
            RegisterRule::Undefined => LOST,
            RegisterRule::Offset(n) if n % 8 == 0 && *n != 0 => {
                i16::try_from(n / 8).ok().filter(|words| *words != LOST)?
            }
            _ => return None,
        };
    }
    (A::HAS_LINK_REGISTER || narrow.saved[0] != SAME).then_some(narrow)
}

/// The `n` of `rsp + 8 + ((rip & 15) >= n) * 8`, by which linkers describe an x86-64 PLT stub: from
/// its byte `n` on, the stub has pushed a word.
fn plt_push<A: Arch>(expression: &[u8]) -> Option<u8> {
    if A::ARCH != image::Arch::X86_64 {
        return None;
    }
    // breg7 8, breg16 0, lit15, and, lit<n>, ge, lit3, shl, plus
    let [0x77, 8, 0x80, 0, 0x3f, 0x1a, lit @ 0x30..=0x3f, 0x2a, 0x33, 0x24, 0x22] = *expression
    else {
        return None;
    };
    Some(lit - 0x30)
}

fn bytes_of<'a>(
    section: Frames<'a>,
    expression: &gimli::UnwindExpression<usize>,
) -> Option<&'a [u8]> {
    let expression = match section {
        Frames::Eh(section) => expression.get(section),
        Frames::Debug(section) => expression.get(section),
    };
    expression.ok().map(|e| e.0.slice()).filter(|bytes| bytes.len() <= MAX_EXPRESSION)
}

/// Recognizes `register + n` and `[register + n]`, which compilers use for realigned stacks and
/// glibc for signal frames. Other expressions are evaluated when they are needed.
fn value_of(expression: &[u8], encoding: gimli::Encoding, indirect: bool) -> Value {
    let general = || match indirect {
        true => Value::AtExpression(expression.into()),
        false => Value::Expression(expression.into()),
    };
    let reader = Reader::new(expression, gimli::LittleEndian);
    let mut operations = gimli::Expression(reader).operations(encoding);
    let Ok(Some(Operation::RegisterOffset { register, offset, base_type })) = operations.next()
    else {
        return general();
    };
    if base_type.0 != 0 {
        return general();
    }
    match (operations.next(), indirect) {
        (Ok(None), false) => Value::Register(register.0, offset),
        (Ok(None), true) => Value::AtRegister(register.0, offset),
        (Ok(Some(Operation::Deref { size: 8, space: false, .. })), false) => {
            match operations.next() {
                Ok(None) => Value::AtRegister(register.0, offset),
                _ => general(),
            }
        }
        _ => general(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fits_half_a_cache_line() {
        assert_eq!(size_of::<Rule>(), 32, "rules are cached by the hundred thousand");
    }

    #[test]
    fn only_the_linkers_plt_expression_on_x86_64_is_a_push() {
        use crate::aarch64::Aarch64;
        use crate::x86_64::X86_64;
        // breg7 8, breg16 0, lit15, and, lit11, ge, lit3, shl, plus
        let mut plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
        assert_eq!(plt_push::<X86_64>(&plt), Some(11));
        assert_eq!(plt_push::<Aarch64>(&plt), None);
        plt[1] = 16;
        assert_eq!(plt_push::<X86_64>(&plt), None);
    }

    #[test]
    fn sums_of_a_register_need_no_expression() {
        let encoding =
            gimli::Encoding { format: gimli::Format::Dwarf32, version: 4, address_size: 8 };
        let of = |bytes: &[u8], indirect| format!("{:?}", value_of(bytes, encoding, indirect));
        // breg6 -16
        assert_eq!(of(&[0x76, 0x70], false), "Register(6, -16)");
        assert_eq!(of(&[0x76, 0x70], true), "AtRegister(6, -16)");
        // with deref
        assert_eq!(of(&[0x76, 0x70, 0x06], false), "AtRegister(6, -16)");
        assert_eq!(of(&[0x76, 0x70, 0x06], true), "AtExpression([118, 112, 6])");
        // with deref_size 4, with two derefs, and lit1
        assert_eq!(of(&[0x76, 0, 0x94, 4], false), "Expression([118, 0, 148, 4])");
        assert_eq!(of(&[0x76, 0, 0x06, 0x06], false), "Expression([118, 0, 6, 6])");
        assert_eq!(of(&[0x31], false), "Expression([49])");
    }
}

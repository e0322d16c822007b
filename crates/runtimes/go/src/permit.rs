//! What is known of an address, and the permission to write there.

use std::fmt;

use image::Avma;

use crate::Variable;

/// Where an address was learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The symbol table.
    SymbolTable,
    /// The code of this function refers to it.
    Code(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SymbolTable => f.write_str("the symbol table"),
            Self::Code(function) => write!(f, "the code of {function}"),
        }
    }
}

/// What the sources say of the address of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The variable.
    pub variable: Variable,
    /// Each source with the address that it names; `None` for one that should have named the
    /// address, but does not.
    pub claims: Vec<(Source, Option<Avma>)>,
}

/// Why nothing may be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not even one source knows the address.
    #[error("the address of {0} is not known")]
    Unknown(Variable),
    /// One source alone may be wrong.
    #[error("the address of {variable} is known from {source_name} alone")]
    OneSource {
        /// The variable.
        variable: Variable,
        /// The source.
        source_name: String,
    },
    /// The sources name different addresses.
    #[error("the address of {variable} is disputed: {claims}")]
    Disputed {
        /// The variable.
        variable: Variable,
        /// Who says what.
        claims: String,
    },
    /// The address cannot be that of this variable.
    #[error("the address of {variable} is implausible: {reason}")]
    Implausible {
        /// The variable.
        variable: Variable,
        /// Why.
        reason: &'static str,
    },
    /// The version of Go is not known, and its layout only a guess.
    #[error("{0} is not known, and its runtime's layout was only guessed")]
    Guessed(String),
    /// Memory that should be there is not.
    #[error("the value of {0} cannot be read")]
    Unreadable(Variable),
}

impl Refusal {
    /// Whether sources contradict each other, rather than being silent.
    pub(crate) fn is_dispute(&self) -> bool {
        matches!(self, Self::Disputed { .. })
    }
}

impl Evidence {
    /// The address to read from: what the most trusted source says. Reading a wrong address does
    /// no harm to the target, and what is read is checked.
    #[must_use]
    pub fn address(&self) -> Option<Avma> {
        self.claims.iter().find_map(|(_, a)| *a)
    }

    /// The address, if two sources agree and none disagrees.
    ///
    /// # Errors
    /// [`Refusal`]: what is missing.
    pub fn agreed(&self) -> Result<Avma, Refusal> {
        let variable = self.variable;
        if self.claims.is_empty() {
            return Err(Refusal::Unknown(variable));
        }
        let address = self.address().unwrap_or_default();
        if self.claims.iter().any(|(_, a)| *a != Some(address)) {
            let each = self.claims.iter().map(|(s, a)| match a {
                Some(a) => format!("{s} says {a}"),
                None => format!("{s} does not name it"),
            });
            let claims = each.collect::<Vec<_>>().join(", ");
            return Err(Refusal::Disputed { variable, claims });
        }
        match &self.claims[..] {
            [(only, _)] => Err(Refusal::OneSource { variable, source_name: only.to_string() }),
            _ => Ok(address),
        }
    }
}

/// One word to write, with what must be there before.
///
/// `old` is what was read when the patch was made. The writer reads it again, writes only if it
/// is still there, and keeps the patch to undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Where: 8 bytes, aligned.
    pub address: Avma,
    /// What is there.
    pub old: u64,
    /// What is to be there.
    pub new: u64,
}

impl Patch {
    /// The patch that takes this one back.
    #[must_use]
    pub fn undo(self) -> Self {
        Self { old: self.new, new: self.old, ..self }
    }
}

/// The permission to write one variable: there is no other way to an address for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritePermit {
    variable: Variable,
    address: Avma,
    current: u64,
}

impl WritePermit {
    /// Only for an address that was agreed on and whose current value was found plausible.
    pub(crate) fn new(variable: Variable, address: Avma, current: u64) -> Self {
        Self { variable, address, current }
    }

    /// What may be written.
    #[must_use]
    pub fn variable(&self) -> Variable {
        self.variable
    }

    /// What was there when the permit was given.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The write of a new value.
    #[must_use]
    pub fn patch(&self, new: u64) -> Patch {
        Patch { address: self.address, old: self.current, new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(claims: Vec<(Source, Option<u64>)>) -> Evidence {
        let claims = claims.into_iter().map(|(s, a)| (s, a.map(Avma))).collect();
        Evidence { variable: Variable::MemProfileRate, claims }
    }

    #[test]
    fn two_sources_must_agree_and_none_may_disagree() {
        let code = Source::Code;
        let agreed = |claims| evidence(claims).agreed();
        assert_eq!(agreed(vec![(code("a"), Some(8)), (code("b"), Some(8))]), Ok(Avma(8)));
        assert!(matches!(agreed(vec![]), Err(Refusal::Unknown(_))));
        assert!(matches!(agreed(vec![(code("a"), Some(8))]), Err(Refusal::OneSource { .. })));
        for other in [Some(16), None] {
            let claims =
                vec![(Source::SymbolTable, Some(8)), (code("a"), Some(8)), (code("b"), other)];
            assert!(matches!(agreed(claims), Err(Refusal::Disputed { .. })), "{other:?}");
        }
    }
}

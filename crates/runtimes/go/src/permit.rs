//! Weighs the evidence for the address of a variable, and permits writes only if it is conclusive.

use std::fmt;

use image::Avma;

use crate::Variable;

/// A source of a variable's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The symbol table.
    SymbolTable,
    /// The code of this function.
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

/// What the sources say about the address of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The variable.
    pub variable: Variable,
    /// Each source and the address that it names, the most trusted first. `None` for a source that
    /// should name the address but does not.
    pub claims: Vec<(Source, Option<Avma>)>,
}

/// Why a variable must not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No source names the address.
    #[error("the address of {0} is unknown")]
    Unknown(Variable),
    /// Only one source names the address, and it may be wrong.
    #[error("only {source_name} gives the address of {variable}")]
    OneSource {
        /// The variable.
        variable: Variable,
        /// The source.
        source_name: String,
    },
    /// The sources name different addresses.
    #[error("sources disagree on the address of {variable}: {claims}")]
    Disputed {
        /// The variable.
        variable: Variable,
        /// What each source says.
        claims: String,
    },
    /// The address or the value there does not fit the variable.
    #[error("the address of {variable} is implausible: {reason}")]
    Implausible {
        /// The variable.
        variable: Variable,
        /// What does not fit.
        reason: &'static str,
    },
    /// The Go version is unknown, so that the layout is only a guess.
    #[error("{0} is unknown, and the layout of its runtime is only a guess")]
    Guessed(String),
    /// The value of the variable, or what it refers to, cannot be read.
    #[error("the value of {0} cannot be read")]
    Unreadable(Variable),
}

impl Refusal {
    /// Whether sources contradict each other, as opposed to lacking the address.
    pub(crate) fn is_dispute(&self) -> bool {
        matches!(self, Self::Disputed { .. })
    }
}

impl Evidence {
    /// The address that the most trusted source names, for reading only. Reading a wrong address
    /// does not harm the target, and the values are checked.
    #[must_use]
    pub fn address(&self) -> Option<Avma> {
        self.claims.iter().find_map(|(_, a)| *a)
    }

    /// The address if at least two sources agree on it and none disagrees.
    ///
    /// # Errors
    /// [`Refusal`] if fewer than two sources name the address, or if they disagree.
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

/// A write of one word, and the value that it replaces.
///
/// `old` was read when the patch was created. The writer reads the word again, writes only if it is
/// unchanged, and keeps the patch to undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// The address of 8 aligned bytes.
    pub address: Avma,
    /// The value to replace.
    pub old: u64,
    /// The value to write.
    pub new: u64,
}

impl Patch {
    /// The patch that reverts this one.
    #[must_use]
    pub fn undo(self) -> Self {
        Self { old: self.new, new: self.old, ..self }
    }
}

/// The permission to write one variable. Addresses for writing are only available from a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritePermit {
    variable: Variable,
    address: Avma,
    current: u64,
}

impl WritePermit {
    /// Create one only for an address that sources agree on and whose value is plausible.
    pub(crate) fn new(variable: Variable, address: Avma, current: u64) -> Self {
        Self { variable, address, current }
    }

    /// The variable that may be written.
    #[must_use]
    pub fn variable(&self) -> Variable {
        self.variable
    }

    /// The value of the variable when the permit was created.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The patch that writes `new`.
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

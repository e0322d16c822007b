//! Holds what a caller knows about a profile beyond its bytes.

use crate::kinds::KindFacts;

/// What the caller knows about the recorded program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect<'a> {
    /// The path, or its last component, of the main binary, which must be the first mapping.
    pub main_binary: Option<&'a str>,
    /// Pairs of functions (by name), the first of which is inlined into the second: wherever both
    /// are lines of one location, the first comes first.
    pub inlined: &'a [(&'a str, &'a str)],
    /// Kinds that are accepted besides those of Go's runtime/pprof.
    pub kinds: &'a [KindFacts],
}

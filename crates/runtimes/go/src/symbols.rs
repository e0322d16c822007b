//! Names the runtime's variables and looks their addresses up in the symbol table.

use std::fmt;

use image::{ElfImage, Svma};

macro_rules! variables {
    ($($(#[$doc:meta])* $name:ident = $go:literal,)*) => {
        /// A package variable of the Go runtime.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Variable {
            $($(#[$doc])* $name,)*
        }

        impl Variable {
            /// All variables.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name of the variable's symbol.
            #[must_use]
            pub fn symbol(self) -> &'static str {
                match self {
                    $(Self::$name => $go,)*
                }
            }
        }
    };
}

variables! {
    /// `allgs`: a slice of every `g` that was ever created. A lock guards it.
    Allgs = "runtime.allgs",
    /// `allglen`: the length of `allgs` for readers without the lock. Read before `allgptr`.
    Allglen = "runtime.allglen",
    /// `allgptr`: the array of `allgs` for readers without the lock.
    Allgptr = "runtime.allgptr",
    /// `allm`: the list of all threads.
    Allm = "runtime.allm",
    /// `allp`: a slice of all processors.
    Allp = "runtime.allp",
    /// `mbuckets`: the list of heap profile buckets.
    Mbuckets = "runtime.mbuckets",
    /// `bbuckets`: the list of block profile buckets.
    Bbuckets = "runtime.bbuckets",
    /// `xbuckets`: the list of mutex profile buckets.
    Xbuckets = "runtime.xbuckets",
    /// `mProfCycle`: the current cycle of the heap profile, and whether it was flushed.
    MProfCycle = "runtime.mProfCycle",
    /// `profMemActiveLock`: guards the published counts of the heap profile.
    ProfMemActiveLock = "runtime.profMemActiveLock",
    /// `profMemFutureLock`: three locks, one per cycle of the heap profile.
    ProfMemFutureLock = "runtime.profMemFutureLock",
    /// `MemProfileRate`: mean bytes between samples.
    MemProfileRate = "runtime.MemProfileRate",
    /// `blockprofilerate`: mean ticks of blocking between samples.
    BlockProfileRate = "runtime.blockprofilerate",
    /// `mutexprofilerate`: one in this many contentions is sampled.
    MutexProfileRate = "runtime.mutexprofilerate",
    /// `waitReasonStrings`: an array of strings.
    WaitReasonStrings = "runtime.waitReasonStrings",
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

/// Looks the variables up in `.symtab`. Empty for a stripped program. Omits a name that occurs
/// twice with different addresses, because such a table cannot be trusted.
pub(crate) fn from_symbol_table(image: &ElfImage) -> Vec<(Variable, Svma)> {
    let mut found: Vec<(Variable, Svma)> = Vec::new();
    let mut ambiguous = Vec::new();
    for symbol in image.symbols(".symtab", ".strtab").filter(|s| s.starts_with(b"runtime.")) {
        let is = |v: &&Variable| symbol.is_named(v.symbol().as_bytes());
        let Some(variable) = Variable::ALL.iter().find(is) else { continue };
        match found.iter().find(|(v, _)| v == variable) {
            Some((_, other)) if *other != symbol.value => ambiguous.push(*variable),
            Some(_) => {}
            None => found.push((*variable, symbol.value)),
        }
    }
    found.retain(|(v, _)| !ambiguous.contains(v));
    found
}

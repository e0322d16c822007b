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

/// Bounds the work for a hostile symbol table; no program has more symbols.
const MAX_SYMBOLS: usize = 16 << 20;

/// Looks the variables up in `.symtab`. Empty for a stripped program. Omits a name that occurs twice
/// with different addresses, because such a table cannot be trusted.
pub(crate) fn from_symbol_table(image: &ElfImage) -> Vec<(Variable, Svma)> {
    let (Some(symbols), Some(strings)) = (image.section(".symtab"), image.section(".strtab"))
    else {
        return Vec::new();
    };
    let mut found: Vec<(Variable, Svma)> = Vec::new();
    let mut ambiguous = Vec::new();
    // Elf64_Sym: name u32, info u8, other u8, section u16, value u64, size u64.
    for symbol in symbols.data.chunks_exact(24).take(MAX_SYMBOLS) {
        let name = u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]) as usize;
        let Some(text) = strings.data.get(name..).filter(|t| t.starts_with(b"runtime.")) else {
            continue;
        };
        let is = |v: &&Variable| {
            text.starts_with(v.symbol().as_bytes()) && text.get(v.symbol().len()) == Some(&0)
        };
        let Some(variable) = Variable::ALL.iter().find(is) else { continue };
        let value = Svma(u64::from_le_bytes(symbol[8..16].try_into().unwrap_or_default()));
        match found.iter().find(|(v, _)| v == variable) {
            Some((_, other)) if *other != value => ambiguous.push(*variable),
            Some(_) => {}
            None => found.push((*variable, value)),
        }
    }
    found.retain(|(v, _)| !ambiguous.contains(v));
    found
}

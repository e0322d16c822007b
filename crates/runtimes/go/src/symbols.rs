//! The runtime's variables, and the symbol table as one source of their addresses.

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
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name of its symbol.
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
    /// `allgs`: a slice of all goroutines that ever were; guarded by a lock, hence for checks.
    Allgs = "runtime.allgs",
    /// `allglen`: its length, for readers without the lock. Read before `allgptr`.
    Allglen = "runtime.allglen",
    /// `allgptr`: its array, for readers without the lock.
    Allgptr = "runtime.allgptr",
    /// `allm`: the list of all threads.
    Allm = "runtime.allm",
    /// `allp`: a slice of all processors.
    Allp = "runtime.allp",
    /// `mbuckets`: heap profile.
    Mbuckets = "runtime.mbuckets",
    /// `bbuckets`: block profile.
    Bbuckets = "runtime.bbuckets",
    /// `xbuckets`: mutex profile.
    Xbuckets = "runtime.xbuckets",
    /// `mProfCycle`: the cycle of the heap profile, and whether it is flushed.
    MProfCycle = "runtime.mProfCycle",
    /// `profMemActiveLock`.
    ProfMemActiveLock = "runtime.profMemActiveLock",
    /// `profMemFutureLock`, three of them.
    ProfMemFutureLock = "runtime.profMemFutureLock",
    /// `MemProfileRate`, in bytes.
    MemProfileRate = "runtime.MemProfileRate",
    /// `blockprofilerate`, in ticks.
    BlockProfileRate = "runtime.blockprofilerate",
    /// `mutexprofilerate`, one in so many.
    MutexProfileRate = "runtime.mutexprofilerate",
    /// `waitReasonStrings`: an array of strings.
    WaitReasonStrings = "runtime.waitReasonStrings",
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

/// More symbols than any program has.
const MAX_SYMBOLS: usize = 16 << 20;

/// Looks the variables up in `.symtab`; empty in a stripped program. A name that occurs twice
/// with different addresses is left out: a source that contradicts itself is none.
pub(crate) fn of_symbol_table(image: &ElfImage) -> Vec<(Variable, Svma)> {
    let (Some(symbols), Some(strings)) = (image.section(".symtab"), image.section(".strtab"))
    else {
        return Vec::new();
    };
    let mut found: Vec<(Variable, Svma)> = Vec::new();
    let mut twice = Vec::new();
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
            Some((_, other)) if *other != value => twice.push(*variable),
            Some(_) => {}
            None => found.push((*variable, value)),
        }
    }
    found.retain(|(v, _)| !twice.contains(v));
    found
}

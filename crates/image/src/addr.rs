//! Address newtypes.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `n` bytes further up; `None` past the end of the space.
            #[must_use]
            pub fn checked_add(self, n: u64) -> Option<Self> {
                self.0.checked_add(n).map(Self)
            }

            /// The address `n` bytes further up, wrapping as the hardware does.
            #[must_use]
            pub fn wrapping_add(self, n: u64) -> Self {
                Self(self.0.wrapping_add(n))
            }

            /// The address `n` bytes further down, wrapping as the hardware does.
            #[must_use]
            pub fn wrapping_sub(self, n: u64) -> Self {
                Self(self.0.wrapping_sub(n))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An actual virtual memory address: in the address space of the running target.
    Avma
}
address! {
    /// A stated virtual memory address: what the ELF file says of itself (`p_vaddr`, `st_value`).
    Svma
}
address! {
    /// A byte offset in a file.
    FileOffset
}

/// What is added (modulo 2⁶⁴) to a stated address to get the actual one: 0 for a position
/// dependent executable.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Bias(pub u64);

impl Bias {
    /// The bias that puts `svma` at `avma`.
    #[must_use]
    pub fn between(svma: Svma, avma: Avma) -> Self {
        Self(avma.0.wrapping_sub(svma.0))
    }

    /// Where the stated address lies in the process.
    #[must_use]
    pub fn to_avma(self, svma: Svma) -> Avma {
        Avma(svma.0.wrapping_add(self.0))
    }

    /// What the file calls the address in the process.
    #[must_use]
    pub fn to_svma(self, avma: Avma) -> Svma {
        Svma(avma.0.wrapping_sub(self.0))
    }
}

impl fmt::Debug for Bias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bias({:#x})", self.0)
    }
}

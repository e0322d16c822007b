//! Defines types for addresses in a process, addresses in an ELF file, and file offsets.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `n` bytes higher; `None` if that overflows.
            #[must_use]
            pub fn checked_add(self, n: u64) -> Option<Self> {
                self.0.checked_add(n).map(Self)
            }

            /// The address `n` bytes higher, modulo 2⁶⁴ as in hardware.
            #[must_use]
            pub fn wrapping_add(self, n: u64) -> Self {
                Self(self.0.wrapping_add(n))
            }

            /// The address `n` bytes lower, modulo 2⁶⁴ as in hardware.
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
    /// An actual virtual memory address: in the address space of the process.
    Avma
}
address! {
    /// A stated virtual memory address: as in the ELF file (`p_vaddr`, `st_value`).
    Svma
}
address! {
    /// A byte offset in a file.
    FileOffset
}

/// The difference (modulo 2⁶⁴) between the actual and the stated address of an image: 0 for a
/// position-dependent executable.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Bias(pub u64);

impl Bias {
    /// The bias that puts `svma` at `avma`.
    #[must_use]
    pub fn between(svma: Svma, avma: Avma) -> Self {
        Self(avma.0.wrapping_sub(svma.0))
    }

    /// The address in the process of an address in the file.
    #[must_use]
    pub fn to_avma(self, svma: Svma) -> Avma {
        Avma(svma.0.wrapping_add(self.0))
    }

    /// The address in the file of an address in the process.
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

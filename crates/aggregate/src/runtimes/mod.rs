//! Integrates language runtimes and other sources of names into a recording. Each is an
//! implementation of [`Runtime`] and a row of [`RUNTIMES`].

mod chains;
mod contract;
mod go;
mod jit;
mod programs;
mod python;
mod set;
mod walk;

pub use self::chains::{OwnedChain, WhichChain};
pub use self::contract::{
    Captured, CodeAddress, MergedFrame, OffCpuThread, Presence, Refused, Roles, Row, Runtime,
    SampledThread, UnwoundStack,
};
pub use self::programs::Owner;
pub(crate) use self::set::Native;
pub use self::set::{OffCpuState, Runtimes};

/// All runtimes, in the order in which they are called if several take part in a sample.
pub const RUNTIMES: &[Row] = &[
    Row { name: "Go", mapping: "[go]", new: go::new, keeps_file: None },
    // A runtime that names its own compiled code comes before this one, which takes all code in
    // memory.
    Row { name: "compiled code", mapping: "[jit]", new: jit::new, keeps_file: Some(jit::is_dump) },
    Row { name: "Python", mapping: "[python]", new: python::new, keeps_file: None },
];

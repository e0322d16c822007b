//! What language runtimes and compilers in the targets tell of their code.

pub mod go;
pub mod jit;
pub mod python;

//! Names of code that a runtime compiles while it runs, as the runtime itself writes them down.
//!
//! There are two forms, both appended to as code comes into being:
//!
//! * the *perf map*, `/tmp/perf-PID.map` ([`PerfMap`]): address, size and name, without times;
//! * the *jitdump*, `jit-PID.dump` ([`JitDump`]): with times, lines, and moves of code.
//!
//! Both are written by the target and may hold anything. They are fed piece by piece, as they
//! grow; nothing is read here.

mod dump;
mod names;
mod perfmap;

use std::sync::Arc;

pub use dump::JitDump;
pub use names::split_name;
pub use perfmap::PerfMap;

/// Compiled code by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JitFunction {
    /// The function's name, without what the runtime adds to it.
    pub name: Arc<str>,
    /// What the runtime wrote.
    pub raw: Arc<str>,
    /// The source file, where the runtime names it.
    pub file: Option<Arc<str>>,
    /// The line of the address in it; 0 where unknown.
    pub line: u32,
    /// The line where the function begins; 0 where unknown.
    pub start_line: u32,
}

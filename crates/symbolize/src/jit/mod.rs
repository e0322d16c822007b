//! Symbolizes JIT-compiled code from the files that runtimes write for profilers.
//!
//! There are two formats. Runtimes append to both as they compile:
//!
//! * the *perf map*, `/tmp/perf-PID.map` ([`PerfMap`]): address, size and name, without times;
//! * the *jitdump*, `jit-PID.dump` ([`JitDump`]): also times, lines, and moves of code.
//!
//! Both belong to the target and may hold anything. Callers read the files and feed them here piece
//! by piece as they grow; all memory has limits.

mod dump;
mod names;
mod perfmap;

use std::sync::Arc;

pub use dump::JitDump;
pub use names::split_name;
pub use perfmap::PerfMap;

/// A JIT-compiled function, at an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JitFunction {
    /// The name of the function, without what the runtime adds to it: see [`split_name`].
    pub name: Arc<str>,
    /// The name as the runtime wrote it.
    pub raw: Arc<str>,
    /// The source file, if the runtime names it.
    pub file: Option<Arc<str>>,
    /// The line of the address; 0 if unknown.
    pub line: u32,
    /// The line where the function starts; 0 if unknown.
    pub start_line: u32,
}

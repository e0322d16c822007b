//! Inspects a live process from outside: its `/proc` files, memory, threads and mapped files.
//!
//! The process is assumed to be hostile. Nothing that it controls (paths, files, counts) is trusted.
//! It can neither hang us, nor lead us to files that it could not open itself, nor have us take
//! another process for it by a reused PID.

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod claim;
mod cpu;
mod error;
mod held;
mod images;
mod list;
mod maps;
mod memory;
mod open;
mod procdir;
mod process;
pub mod seize;
mod spawned;
mod stat;
mod waits;
mod watchdog;

pub use claim::{Claim, Claimed};
pub use cpu::{CpuTimes, CpuTimesReader};
pub use error::OpenError;
pub use held::{HeldWord, Restored, WritableMemory, WriteError};
pub use images::Images;
pub use list::{by_parent, descendants, lists_children, pids};
pub use maps::{MapRow, Maps, Perms};
pub use memory::ProcessMemory;
pub use open::{Root, open_mapped};
pub use process::{Identity, Process, Program};
pub use seize::{SeizeError, Seized, Threads, Tracer};
pub use spawned::{Running, SpawnError, Spawned};
pub use waits::{BlockedCall, Schedule, ThreadWait};

//! Reads the state of a CPython 3.9 to 3.14 interpreter in another process: its version, the
//! offsets for walking its frames, and the function and line of a frame.
//!
//! ```text
//!  image ─► _PyRuntime ─┬─ 3.13+: the offsets that it states itself ─┐
//!                       └─ before: a table per version ──────────────┴─► Layout
//!  frame ─► code object ─► name, file, line table ─► Code ─► line
//! ```
//!
//! This crate makes no system calls: it reads memory through [`image::Memory`]. The memory belongs
//! to the target and may be hostile: lengths are bounded, and a code object is accepted only if its
//! type is `code`.

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod code;
mod find;
mod layout;
mod lines;
mod text;

pub use code::{Code, CodeReader};
pub use find::{FindError, Runtime};
pub use layout::{FrameStyle, Layout};

use image::Unreadable;

/// Why an object could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The memory of the object cannot be read, most often because it was freed.
    #[error("cannot read the state of the Python interpreter: {0}")]
    Unreadable(#[from] Unreadable),
    /// The object has a wrong type or implausible fields, most often because its memory was reused.
    #[error("unexpected data in the Python interpreter: {0}")]
    Implausible(&'static str),
}

//! The state of a CPython interpreter in another address space: which version it is, where its
//! frames hang, and what function and line a frame is in. CPython 3.9 to 3.14.
//!
//! ```text
//!  image ─► _PyRuntime ─┬─ 3.13+: the offsets that it carries itself ─┐
//!                       └─ before: a table per version ───────────────┴─► Layout
//!  frame ─► code object ─► name, file, line table ─► Code ─► line
//! ```
//!
//! Nothing here makes a system call: memory is read through [`image::Memory`]. It belongs to the
//! target and may hold anything: lengths are bounded, and a code object is taken for one only if
//! its type is `code`.

mod code;
mod find;
mod layout;
mod lines;
mod raw;
mod text;

pub use code::{Code, CodeReader};
pub use find::{FindError, Runtime};
pub use layout::{FrameStyle, Layout};

use image::Unreadable;

/// Why an object could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its memory is not there any more.
    #[error("the interpreter's state: {0}")]
    Unreadable(#[from] Unreadable),
    /// It is not what it was taken for: its memory was used again.
    #[error("the interpreter's state is implausible: {0}")]
    Implausible(&'static str),
}

//! Says why an image has no usable line table.

use image::Unreadable;

/// Why an image has no usable line table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    /// The image has no line table: it is not a Go program, or the table was removed.
    #[error("no Go line table in the image")]
    Absent,
    /// The table ends within its header.
    #[error("the Go line table is truncated")]
    Truncated,
    /// The format is unknown: older than Go 1.16, or newer than this crate.
    #[error("unknown Go line table format (magic {0:#x})")]
    Magic(u32),
    /// The header is inconsistent; the text names the fields.
    #[error("the header of the Go line table is invalid: {0}")]
    Header(&'static str),
    /// The address of the Go code could not be found.
    #[error("the start of the Go code was not found")]
    NoText,
    /// A part of the table could not be read from memory.
    #[error("cannot read the Go line table: {0}")]
    Unreadable(#[from] Unreadable),
}

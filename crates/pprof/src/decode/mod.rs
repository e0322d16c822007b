//! Reading profiles, which may be broken or hostile.
//!
//! The bytes are walked once for the top-level fields and then table by table, because samples come
//! before what they refer to. Ids may be any 64-bit numbers. Everything that the result will hold is
//! charged to a budget before it is allocated.

mod container;
mod error;
mod ids;
mod limits;
mod tables;
mod wire;

pub use container::inflate;
pub use error::DecodeError;
pub use limits::Limits;

use crate::Profile;

/// Decodes a profile, compressed with gzip or not, within the [`Limits`] of a file of its size.
///
/// # Errors
/// When the bytes are no valid profile; see [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Profile, DecodeError> {
    decode_with(bytes, &Limits::of_file(bytes.len()))
}

/// Decodes a profile, compressed with gzip or not.
///
/// # Errors
/// When the bytes are no valid profile or exceed a limit; see [`DecodeError`].
pub fn decode_with(bytes: &[u8], limits: &Limits) -> Result<Profile, DecodeError> {
    let bytes = inflate(bytes, limits)?;
    tables::profile(&bytes, limits).map_err(|e| container::explain(&bytes, e))
}

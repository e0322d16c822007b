//! Decodes profiles, which may be broken or hostile.
//!
//! The decoder scans the top-level fields first and then decodes table by table, because samples come
//! before the entries that they refer to. Ids may be any 64-bit number. Every allocation for the
//! result is charged to a budget first.

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
/// When the bytes are not a valid profile; see [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Profile, DecodeError> {
    decode_with(bytes, &Limits::of_file(bytes.len()))
}

/// Decodes a profile, compressed with gzip or not.
///
/// # Errors
/// When the bytes are not a valid profile or exceed a limit; see [`DecodeError`].
pub fn decode_with(bytes: &[u8], limits: &Limits) -> Result<Profile, DecodeError> {
    let compressed = bytes.len();
    let bytes = inflate(bytes, limits)?;
    let profile = tables::profile(&bytes, limits).map_err(|e| container::explain(&bytes, e))?;
    tracing::debug!(
        bytes = compressed,
        uncompressed = bytes.len(),
        samples = profile.samples.len(),
        locations = profile.locations.len(),
        functions = profile.functions.len(),
        mappings = profile.mappings.len(),
        "decoded a profile"
    );
    Ok(profile)
}

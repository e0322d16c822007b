//! Reads the Go version that built an image (`.go.buildinfo`).

use std::fmt;

use image::{ElfImage, Svma};

/// The start of the section, from Go's debug/buildinfo.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// In bytes; longer than any release's version string, including its experiments.
const MAX_VERSION: usize = 256;

/// A Go release, such as 1.24.11.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoVersion {
    /// The minor version, 24 for go1.24.11. It determines the layout of the runtime's types.
    pub minor: u32,
    /// The version string as the linker wrote it: `go1.24.11`, `go1.26rc1 X:greenteagc`.
    pub text: String,
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl GoVersion {
    /// Parses `go1.N…`. `None` for anything else, such as a `devel` build.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("go1.")?;
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        Some(Self { minor: digits[..end].parse().ok()?, text: text.to_owned() })
    }

    /// Reads the version from `.go.buildinfo`, which `strip` keeps. Layout (Go's debug/buildinfo):
    ///
    /// ```text
    ///  0 magic (14 bytes)   14 pointer size   15 flags
    ///  flags & 2 (1.18+):   32 length as uvarint, then the version
    ///  otherwise:           16 address of a string header {address, length}
    /// ```
    #[must_use]
    pub fn of_image(image: &ElfImage) -> Option<Self> {
        let section = image.section(".go.buildinfo")?;
        let data = section.data;
        if !data.starts_with(MAGIC) {
            return None;
        }
        let flags = *data.get(15)?;
        let text = if flags & 2 != 0 {
            let (size, used) = uvarint(data.get(32..)?)?;
            bytes_of(data.get(32 + used..)?, size)?
        } else {
            let header = image.bytes_at(Svma(crate::header::u64_at(data, 16)?))?;
            let address = Svma(crate::header::u64_at(header, 0)?);
            bytes_of(image.bytes_at(address)?, crate::header::u64_at(header, 8)?)?
        };
        Self::parse(std::str::from_utf8(text).ok()?)
    }
}

fn bytes_of(bytes: &[u8], size: u64) -> Option<&[u8]> {
    let size = usize::try_from(size).ok().filter(|s| *s <= MAX_VERSION)?;
    bytes.get(..size)
}

fn uvarint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, b) in bytes.iter().take(9).enumerate() {
        value |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

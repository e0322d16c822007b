//! Reads MiniDebugInfo, which names all functions of a stripped program: `.gnu_debugdata` is an ELF
//! file, compressed with xz, with a `.symtab` of the functions that `.dynsym` lacks (gdb manual,
//! MiniDebugInfo). Fedora and related distributions ship it.

use image::{ElfImage, ImageBytes};
use lzma_rust2::XzReader;

/// Limit of the decompressed file, in bytes; that of a 100 MB program takes some 10 MiB.
const MAX_BYTES: u64 = 256 << 20;
/// Limit of the decoder's memory; files made by `xz -9` need 65 MiB.
const MAX_DECODER_KIB: u32 = 72 << 10;

/// The result of reading `.gnu_debugdata`.
#[derive(Debug)]
pub(crate) enum MiniDebug {
    /// There is no such section.
    Absent,
    /// It cannot be decompressed, is larger than the limit, or is not an ELF file.
    Unreadable,
    /// The file in it.
    Found(ElfImage),
}

/// Decompresses the file in `.gnu_debugdata`.
pub(crate) fn read(image: &ElfImage) -> MiniDebug {
    let Some(section) = image.section(".gnu_debugdata").filter(|s| !s.data.is_empty()) else {
        return MiniDebug::Absent;
    };
    let decoder = XzReader::new_mem_limit(section.data, true, MAX_DECODER_KIB);
    let bytes = match image.decompress(section.data.len(), decoder, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(why) => {
            tracing::debug!(%why, "cannot decompress MiniDebugInfo");
            return MiniDebug::Unreadable;
        }
    };
    match ElfImage::parse(ImageBytes::Owned(bytes)) {
        Ok(mini) => {
            mini.share_budget_of(image);
            MiniDebug::Found(mini)
        }
        Err(why) => {
            tracing::debug!(%why, "cannot use MiniDebugInfo");
            MiniDebug::Unreadable
        }
    }
}

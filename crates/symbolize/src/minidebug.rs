//! MiniDebugInfo: the names of all functions in a stripped program, as Fedora and its like ship
//! them: `.gnu_debugdata` is a whole ELF file, compressed by xz, with a `.symtab` of what
//! `.dynsym` lacks (gdb manual, MiniDebugInfo).

use std::io::Read;

use image::{ElfImage, ImageBytes};
use lzma_rust2::XzReader;

/// That of a 100 MB program is some 10 MiB.
const MAX_BYTES: u64 = 256 << 20;
/// `xz -9` needs 65 MiB to decompress.
const MAX_DECODER_KIB: u32 = 72 << 10;

/// What became of `.gnu_debugdata`.
#[derive(Debug)]
pub(crate) enum MiniDebug {
    /// There is none.
    Absent,
    /// It cannot be decompressed, is larger than the limit, or is no ELF file.
    Unreadable,
    /// The file in it.
    Found(ElfImage),
}

/// Decompresses the file in `.gnu_debugdata`.
pub(crate) fn read(image: &ElfImage) -> MiniDebug {
    let Some(section) = image.section(".gnu_debugdata").filter(|s| !s.data.is_empty()) else {
        return MiniDebug::Absent;
    };
    let mut bytes = Vec::new();
    let decoder = XzReader::new_mem_limit(section.data, true, MAX_DECODER_KIB);
    match decoder.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
        Ok(n) if n as u64 <= MAX_BYTES => {}
        _ => return MiniDebug::Unreadable,
    }
    match ElfImage::parse(ImageBytes::Owned(bytes)) {
        Ok(image) => MiniDebug::Found(image),
        Err(_) => MiniDebug::Unreadable,
    }
}

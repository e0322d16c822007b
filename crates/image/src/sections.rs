//! Reads the sections of an ELF file by name, decompressing those that are compressed.
//!
//! Compilers and linkers compress debug sections with zlib or zstd (`-gz`, `SHF_COMPRESSED`), and
//! GNU tools once did so under another name (`.zdebug_info`). The file belongs to the target, so
//! that the decompressed bytes of one file count against a limit, and memory grows with what is
//! decompressed rather than with the size that a header claims. This is why `object` parses the
//! headers, but its `CompressedData::decompress` is not used: it allocates the claimed size, and
//! accepts a stream that is longer than it.

use std::borrow::Cow;
use std::io::Read;

use object::elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD};
use object::read::elf::CompressionHeader;
use object::{CompressedData, CompressionFormat, LittleEndian};

use crate::{DecompressError, ElfImage, Section};

/// Why a section cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum SectionError {
    #[error("the compression header is damaged")]
    Header,
    #[error("unknown compression method")]
    Method,
    #[error("the sections of the file are larger than the limit")]
    Limit,
    #[error("the compressed sections of all images exceed their limits on size and time")]
    Budget,
    #[error("the compressed data are damaged")]
    Stream,
    #[error("the decompressed size is not the one in the header")]
    Size,
}

/// Reads sections of one file, up to a total of decompressed bytes.
#[derive(Debug)]
pub struct SectionReader<'a> {
    image: &'a ElfImage,
    limit: u64,
    left: u64,
    unreadable: u32,
}

impl<'a> SectionReader<'a> {
    /// A reader for `image` that decompresses at most `limit` bytes in all.
    #[must_use]
    pub fn new(image: &'a ElfImage, limit: u64) -> Self {
        Self { image, limit, left: limit, unreadable: 0 }
    }

    /// The bytes of the first section of that name (`.debug_info`): borrowed from the file unless
    /// they are compressed. Empty if there is no such section, or if it cannot be decompressed
    /// within the limit, which [`SectionReader::unreadable`] counts.
    pub fn read(&mut self, name: &str) -> Cow<'a, [u8]> {
        if let Some(section) = self.image.section(name) {
            return self.contents(name, &section);
        }
        let old_name = name.strip_prefix(".debug_").map(|rest| format!(".zdebug_{rest}"));
        match old_name.and_then(|old| self.image.section(&old)) {
            Some(section) => self.decompress(name, gnu_compressed(section.data)),
            None => Cow::Borrowed(&[]),
        }
    }

    /// The bytes of all sections of that name, one after the other: an object file has one for
    /// each COMDAT group.
    pub fn read_all(&mut self, name: &str) -> Cow<'a, [u8]> {
        let image = self.image;
        let sections: Vec<_> = image.sections().filter(|(n, _)| *n == name).map(|s| s.1).collect();
        if sections.len() < 2 {
            return self.read(name);
        }
        let mut all = Vec::new();
        for section in sections {
            let part = self.contents(name, &section);
            // Plain sections count, too, since any number of them may claim the same bytes.
            match self.left.checked_sub(part.len() as u64) {
                Some(left) if !section.compressed => self.left = left,
                Some(_) => {}
                None => {
                    self.unreadable = self.unreadable.saturating_add(1);
                    break;
                }
            }
            all.extend_from_slice(&part);
        }
        Cow::Owned(all)
    }

    /// How many bytes count against the limit so far.
    #[must_use]
    pub fn decompressed_bytes(&self) -> u64 {
        self.limit.saturating_sub(self.left)
    }

    /// How many sections exist but could not be decompressed, or not within the limit.
    #[must_use]
    pub fn unreadable(&self) -> u32 {
        self.unreadable
    }

    fn contents(&mut self, name: &str, section: &Section<'a>) -> Cow<'a, [u8]> {
        if section.compressed {
            self.decompress(name, elf_compressed(section.data))
        } else {
            Cow::Borrowed(section.data)
        }
    }

    fn decompress(
        &mut self,
        name: &str,
        compressed: Result<CompressedData<'_>, SectionError>,
    ) -> Cow<'a, [u8]> {
        let build_id = || self.image.build_id_hex();
        match compressed.and_then(|c| Ok((c, decompress(self.image, &c, self.left)?))) {
            Ok((from, bytes)) => {
                tracing::debug!(
                    section = name,
                    build_id = build_id(),
                    method = ?from.format,
                    compressed = from.data.len(),
                    size = bytes.len(),
                    "decompressed a section"
                );
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Cow::Owned(bytes)
            }
            Err(why) => {
                tracing::debug!(section = name, build_id = build_id(), %why, "cannot read a section");
                self.unreadable = self.unreadable.saturating_add(1);
                Cow::Borrowed(&[])
            }
        }
    }
}

/// A section with `SHF_COMPRESSED`: a header, then the stream.
fn elf_compressed(section: &[u8]) -> Result<CompressedData<'_>, SectionError> {
    let (header, data) = object::from_bytes::<CompressionHeader64<LittleEndian>>(section)
        .map_err(|()| SectionError::Header)?;
    let format = match header.ch_type(LittleEndian) {
        ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => return Err(SectionError::Method),
    };
    Ok(CompressedData { format, data, uncompressed_size: header.ch_size(LittleEndian) })
}

/// A `.zdebug_` section: "ZLIB", the size as a big-endian 64-bit number, then a zlib stream.
fn gnu_compressed(section: &[u8]) -> Result<CompressedData<'_>, SectionError> {
    let rest = section.strip_prefix(b"ZLIB").ok_or(SectionError::Header)?;
    let (size, data) = rest.split_first_chunk().ok_or(SectionError::Header)?;
    let uncompressed_size = u64::from_be_bytes(*size);
    Ok(CompressedData { format: CompressionFormat::Zlib, data, uncompressed_size })
}

/// All of a section or nothing: a part of it would give wrong names.
fn decompress(
    image: &ElfImage,
    compressed: &CompressedData<'_>,
    limit: u64,
) -> Result<Vec<u8>, SectionError> {
    let size = compressed.uncompressed_size;
    if size > limit {
        return Err(SectionError::Limit);
    }
    let data = compressed.data;
    let read = |decoder: &mut dyn Read| image.decompress(data.len(), decoder, size);
    let read = match compressed.format {
        CompressionFormat::Zlib => read(&mut flate2::read::ZlibDecoder::new(data)),
        CompressionFormat::Zstandard => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(data);
            read(&mut decoder.map_err(|_| SectionError::Stream)?)
        }
        _ => return Err(SectionError::Method),
    };
    match read {
        Ok(out) if out.len() as u64 == size => Ok(out),
        // A stream that is longer or shorter than it claims.
        Ok(_) | Err(DecompressError::Limit) => Err(SectionError::Size),
        Err(DecompressError::Budget) => Err(SectionError::Budget),
        Err(DecompressError::Stream(_)) => Err(SectionError::Stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 2 << 30;

    fn header(method: u32, size: u64) -> Vec<u8> {
        let mut h = method.to_le_bytes().to_vec();
        h.extend([0; 4]);
        h.extend(size.to_le_bytes());
        h.extend(1u64.to_le_bytes());
        h
    }

    fn read(section: &[u8], limit: u64) -> Result<Vec<u8>, SectionError> {
        // Any image will do: each has a budget of its own.
        let program = std::fs::File::open("/proc/self/exe").unwrap();
        let image = ElfImage::open(&program).unwrap();
        decompress(&image, &elf_compressed(section)?, limit)
    }

    #[test]
    fn a_section_whose_size_does_not_match_its_stream_is_rejected() {
        use std::io::Write;
        let text = vec![b'a'; 1000];
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(&text).unwrap();
        let stream = z.finish().unwrap();
        let with = |size| [header(ELFCOMPRESS_ZLIB.0, size), stream.clone()].concat();
        assert_eq!(read(&with(1000), LIMIT), Ok(text.clone()));
        assert_eq!(read(&with(1000), 1000), Ok(text));
        assert_eq!(read(&with(1000), 999), Err(SectionError::Limit));
        assert_eq!(read(&with(999), LIMIT), Err(SectionError::Size));
        assert_eq!(read(&with(1001), LIMIT), Err(SectionError::Size));
        // No terabyte is allocated for these.
        assert_eq!(read(&with(1 << 40), u64::MAX), Err(SectionError::Size));
        assert!(read(&with(u64::MAX), u64::MAX).is_err());
    }

    #[test]
    fn damaged_sections_are_rejected() {
        assert_eq!(read(&header(ELFCOMPRESS_ZSTD.0, 5), LIMIT), Err(SectionError::Stream));
        assert_eq!(read(&header(ELFCOMPRESS_ZLIB.0, 5), LIMIT), Err(SectionError::Stream));
        assert_eq!(read(&header(77, 5), LIMIT), Err(SectionError::Method));
        assert_eq!(read(&header(1, 5)[1..], LIMIT), Err(SectionError::Header));
        assert_eq!(gnu_compressed(b"ZLIB").err(), Some(SectionError::Header));
        assert_eq!(gnu_compressed(b"BZIP12345678").err(), Some(SectionError::Header));
        let unaligned = [&[0][..], &header(ELFCOMPRESS_ZLIB.0, 5)].concat();
        assert!(elf_compressed(&unaligned[1..]).is_ok(), "Go's linker does not align sections");
    }
}

//! Debug sections as plain bytes: borrowed from the file, or decompressed within bounds.

use std::borrow::Cow;
use std::io::Read;

use crate::ElfImage;

/// What all decompressed sections of one file may take together.
const MAX_DECOMPRESSED: u64 = 2 << 30;
/// `sizeof(Elf64_Chdr)`.
const CHDR_SIZE: usize = 24;
const ELFCOMPRESS_ZLIB: u32 = 1;
const ELFCOMPRESS_ZSTD: u32 = 2;

/// Reads the sections of one file and keeps count of what that costs.
pub struct SectionReader<'a> {
    image: &'a ElfImage,
    left: u64,
    /// Sections that are there but cannot be decompressed, or not within the bound.
    pub unreadable: u32,
}

impl<'a> SectionReader<'a> {
    pub fn new(image: &'a ElfImage) -> Self {
        Self { image, left: MAX_DECOMPRESSED, unreadable: 0 }
    }

    /// The bytes of a section by its name with the leading dot; empty where there is none.
    pub fn read(&mut self, name: &str) -> Cow<'a, [u8]> {
        if let Some(section) = self.image.section(name) {
            if !section.compressed {
                return Cow::Borrowed(section.data);
            }
            return self.decompressed(elf_compressed(section.data));
        }
        // Before SHF_COMPRESSED, GNU tools renamed the section: "ZLIB", the size as a big-endian
        // 64-bit number, then a zlib stream.
        let old = name.strip_prefix(".debug_").map(|n| format!(".zdebug_{n}"));
        let Some(section) = old.and_then(|n| self.image.section(&n)) else {
            return Cow::Borrowed(&[]);
        };
        self.decompressed(gnu_compressed(section.data))
    }

    /// The bytes of all sections of a name, one after the other: an object file has one for each
    /// COMDAT group.
    pub fn read_all(&mut self, name: &str) -> Cow<'a, [u8]> {
        let image = self.image;
        let sections: Vec<_> = image.sections().filter(|(n, _)| *n == name).map(|s| s.1).collect();
        if sections.len() < 2 {
            return self.read(name);
        }
        let mut all = Vec::new();
        for section in sections {
            let part = match section.compressed {
                true => self.decompressed(elf_compressed(section.data)),
                false => Cow::Borrowed(section.data),
            };
            // Sections may claim the same bytes many times over.
            match self.left.checked_sub(part.len() as u64) {
                Some(left) if !section.compressed => self.left = left,
                Some(_) => {}
                None => {
                    self.unreadable += 1;
                    break;
                }
            }
            all.extend_from_slice(&part);
        }
        Cow::Owned(all)
    }

    /// What decompressing has made so far.
    pub fn decompressed_bytes(&self) -> u64 {
        MAX_DECOMPRESSED - self.left
    }

    fn decompressed(&mut self, what: Option<Compressed<'_>>) -> Cow<'a, [u8]> {
        let bytes = what.filter(|c| c.size <= self.left).and_then(Compressed::read);
        let Some(bytes) = bytes else {
            self.unreadable += 1;
            return Cow::Borrowed(&[]);
        };
        self.left -= bytes.len() as u64;
        Cow::Owned(bytes)
    }
}

/// The compressed sections of a file in plain, so that several batches share the work.
#[derive(Debug, Default)]
pub struct Inflated {
    sections: Vec<(&'static str, Vec<u8>)>,
    /// See [`SectionReader::unreadable`].
    pub unreadable: u32,
}

impl Inflated {
    /// Decompresses those of the sections that are compressed.
    pub fn of(image: &ElfImage, names: impl Iterator<Item = &'static str>) -> Self {
        let mut reader = SectionReader::new(image);
        let mut sections = Vec::new();
        for name in names {
            if let Cow::Owned(bytes) = reader.read(name) {
                sections.push((name, bytes));
            }
        }
        Self { sections, unreadable: reader.unreadable }
    }

    /// The bytes of one of the sections; empty where there is none that can be read.
    pub fn section<'a>(&'a self, image: &'a ElfImage, name: &str) -> &'a [u8] {
        if let Some((_, bytes)) = self.sections.iter().find(|(n, _)| *n == name) {
            return bytes;
        }
        image.section(name).filter(|s| !s.compressed).map_or(&[], |s| s.data)
    }

    /// What is held in memory.
    pub fn bytes(&self) -> u64 {
        self.sections.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

enum Method {
    Zlib,
    Zstd,
}

struct Compressed<'a> {
    method: Method,
    size: u64,
    stream: &'a [u8],
}

/// Layout: gABI, `Elf64_Chdr` { ch_type, ch_reserved: u32, ch_size, ch_addralign: u64 }.
fn elf_compressed(data: &[u8]) -> Option<Compressed<'_>> {
    let (header, stream) = data.split_at_checked(CHDR_SIZE)?;
    let method = match u32::from_le_bytes(header[..4].try_into().ok()?) {
        ELFCOMPRESS_ZLIB => Method::Zlib,
        ELFCOMPRESS_ZSTD => Method::Zstd,
        _ => return None,
    };
    let size = u64::from_le_bytes(header[8..16].try_into().ok()?);
    Some(Compressed { method, size, stream })
}

fn gnu_compressed(data: &[u8]) -> Option<Compressed<'_>> {
    let rest = data.strip_prefix(b"ZLIB")?;
    let (size, stream) = rest.split_at_checked(8)?;
    Some(Compressed {
        method: Method::Zlib,
        size: u64::from_be_bytes(size.try_into().ok()?),
        stream,
    })
}

impl Compressed<'_> {
    /// All of it, or nothing: a part of a section would give wrong names. The buffer grows with
    /// the stream rather than with the size that is claimed.
    fn read(self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(usize::try_from(self.size).ok()?.min(16 << 20));
        let limit = self.size.checked_add(1)?;
        match self.method {
            Method::Zlib => flate2::read::ZlibDecoder::new(self.stream)
                .take(limit)
                .read_to_end(&mut out)
                .ok()?,
            Method::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(self.stream).ok()?;
                decoder.take(limit).read_to_end(&mut out).ok()?
            }
        };
        (out.len() as u64 == self.size).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(method: u32, size: u64) -> Vec<u8> {
        let mut h = method.to_le_bytes().to_vec();
        h.extend([0; 4]);
        h.extend(size.to_le_bytes());
        h.extend(1u64.to_le_bytes());
        h
    }

    #[test]
    fn a_size_that_does_not_match_the_stream_yields_nothing() {
        use std::io::Write;
        let text = vec![b'a'; 1000];
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(&text).unwrap();
        let stream = z.finish().unwrap();
        let with = |size| [header(ELFCOMPRESS_ZLIB, size), stream.clone()].concat();
        let read = |d: &[u8]| elf_compressed(d).and_then(Compressed::read);
        assert_eq!(read(&with(1000)), Some(text));
        assert_eq!(read(&with(999)), None);
        assert_eq!(read(&with(u64::MAX)), None);
        assert_eq!(read(&with(1 << 40)), None, "and no terabyte is set aside for it");
        assert_eq!(read(&header(ELFCOMPRESS_ZSTD, 5)), None);
        assert_eq!(read(&header(77, 5)), None);
    }
}

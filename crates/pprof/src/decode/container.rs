//! Decompresses gzip and recognizes other formats.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::DecodeError;
use super::limits::Limits;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// First bytes of formats that are mistaken for pprof profiles. As protobuf, each starts with a key
/// that no profile has, so no profile is rejected by mistake.
const OTHER_FORMATS: [(&[u8], &str); 13] = [
    (b"heap profile:", "a text heap profile (debug=1, or gperftools)"),
    (b"heap_v2/", "a text heap profile of jemalloc"),
    (b"goroutine profile:", "a text goroutine profile (debug=1)"),
    (b"goroutine ", "a goroutine dump (debug=2)"),
    (b"threadcreate profile:", "a text threadcreate profile (debug=1)"),
    (b"--- contention", "a text contention profile"),
    (b"--- mutex", "a text mutex profile"),
    (b"--- ", "an old text profile"),
    (b"PERFILE2", "a perf.data file"),
    (b"\x7fELF", "an ELF file"),
    (b"\x28\xb5\x2f\xfd", "a zstd stream"),
    (b"<", "an HTML or XML document"),
    (b"go 1.", "a Go execution trace"),
];

/// The words 0 and 3, with which a gperftools CPU profile starts, in both word sizes.
const GPERFTOOLS_CPU: [&[u8]; 2] =
    [&[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 3, 0, 0, 0]];

/// Decompresses a profile if it is compressed with gzip.
///
/// # Errors
/// When the stream is damaged, the result is empty or exceeds [`Limits::max_bytes`], or the first
/// bytes are those of another format.
pub fn inflate<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, DecodeError> {
    let inner = if GZIP_MAGIC.starts_with(&bytes[..bytes.len().min(2)]) && !bytes.is_empty() {
        Cow::Owned(gunzip(bytes, limits)?)
    } else {
        Cow::Borrowed(bytes)
    };
    if inner.is_empty() {
        return Err(DecodeError::Empty);
    }
    if inner.len() as u64 > limits.max_bytes {
        return Err(DecodeError::TooLarge { limit: limits.max_bytes });
    }
    if GPERFTOOLS_CPU.iter().any(|magic| inner.starts_with(magic)) {
        return Err(DecodeError::OtherFormat("an old binary CPU profile (gperftools)"));
    }
    match OTHER_FORMATS.iter().find(|(magic, _)| inner.starts_with(magic)) {
        Some((_, name)) => Err(DecodeError::OtherFormat(name)),
        None => Ok(inner),
    }
}

fn gunzip(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, DecodeError> {
    let mut inner = Vec::new();
    let one_more = limits.max_bytes.saturating_add(1);
    match MultiGzDecoder::new(bytes).take(one_more).read_to_end(&mut inner) {
        Ok(_) => Ok(inner),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(DecodeError::TruncatedGzip),
        Err(e) => Err(DecodeError::DamagedGzip(e.to_string())),
    }
}

/// Replaces a protobuf error with a clearer one if the bytes are text.
pub(super) fn explain(bytes: &[u8], error: DecodeError) -> DecodeError {
    let head = &bytes[..bytes.len().min(120)];
    let is_text = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
    if !matches!(error, DecodeError::Wire { .. }) || !head.iter().all(is_text) {
        return error;
    }
    let text = String::from_utf8_lossy(head);
    let first_line = text.trim().lines().next().unwrap_or_default();
    DecodeError::Text { first_line: first_line.to_owned() }
}

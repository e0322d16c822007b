//! Limits what decompressing the sections of several images may cost together.
//!
//! A target chooses its files, and a few hundred kilobytes of xz, zlib or zstd can hold gigabytes.
//! Compilers' and linkers' output shrinks to between a half and a tenth. So each compressed byte pays
//! for [`BYTES_PER_BYTE`] decompressed ones and for [`TIME_PER_BYTE`], on top of an allowance for
//! small sections. The work for all images is thus linear in the bytes that the target really maps.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decompressed bytes that a compressed byte pays for.
const BYTES_PER_BYTE: u64 = 20;
/// The time that a compressed byte pays for: far more than decompressing takes, also on a machine
/// with other work.
const TIME_PER_BYTE: Duration = Duration::from_nanos(400);
/// Decompressed bytes that are free, once.
const FREE_BYTES: u64 = 16 << 20;
/// Time that is free, once.
const FREE_TIME: Duration = Duration::from_secs(2);
/// Bytes between two looks at the clock.
const CHUNK: u64 = 256 << 10;
/// Memory that is allocated before anything is decompressed, in bytes.
const MAX_RESERVED: u64 = 16 << 20;

/// Why a stream was not decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// It is longer than the caller's limit for the file.
    #[error("it is larger than the limit for one file")]
    Limit,
    /// All images together have used up their bytes or their time.
    #[error("compressed sections exceed the limits on size and time of all images together")]
    Budget,
    /// The stream is damaged.
    #[error("the compressed data are damaged: {0}")]
    Stream(#[from] io::Error),
}

/// What may still be decompressed, for all images of a recording together.
#[derive(Debug)]
pub struct DecompressionBudget {
    left: Mutex<Left>,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    bytes: u64,
    time: Duration,
}

impl Default for DecompressionBudget {
    fn default() -> Self {
        Self { left: Mutex::new(Left { bytes: FREE_BYTES, time: FREE_TIME }) }
    }
}

impl DecompressionBudget {
    /// A budget of which nothing is used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a decoder to its end, of a stream of `compressed` bytes that gives at most `limit`.
    /// Work counts even if it fails. Streams of several threads are read one after the other.
    fn read(
        &self,
        compressed: usize,
        decoder: impl Read,
        limit: u64,
    ) -> Result<Vec<u8>, DecompressError> {
        // The numbers are never left half changed.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = u64::try_from(compressed).unwrap_or(u64::MAX);
        left.bytes = left.bytes.saturating_add(paid.saturating_mul(BYTES_PER_BYTE));
        let time = u32::try_from(compressed).unwrap_or(u32::MAX);
        left.time = left.time.saturating_add(TIME_PER_BYTE.saturating_mul(time));

        let began = Instant::now();
        let mut out = Vec::new();
        let result = read_within(decoder, limit, *left, began, &mut out);
        left.bytes = left.bytes.saturating_sub(out.len() as u64);
        left.time = left.time.saturating_sub(began.elapsed());
        result.map(|()| out)
    }
}

fn read_within(
    mut decoder: impl Read,
    limit: u64,
    left: Left,
    began: Instant,
    out: &mut Vec<u8>,
) -> Result<(), DecompressError> {
    out.reserve(usize::try_from(limit.min(left.bytes).min(MAX_RESERVED)).unwrap_or(0));
    loop {
        let read = decoder.by_ref().take(CHUNK).read_to_end(out)?;
        if read == 0 {
            return Ok(());
        }
        let length = out.len() as u64;
        if length > limit {
            return Err(DecompressError::Limit);
        }
        if length > left.bytes || began.elapsed() > left.time {
            return Err(DecompressError::Budget);
        }
    }
}

/// An image's part in a budget. Its debug files have the same.
#[derive(Debug, Default)]
pub(crate) struct Share {
    budget: Arc<DecompressionBudget>,
    exceeded: AtomicBool,
}

impl Share {
    pub(crate) fn of(budget: &Arc<DecompressionBudget>) -> Self {
        Self { budget: Arc::clone(budget), exceeded: AtomicBool::new(false) }
    }

    pub(crate) fn read(
        &self,
        compressed: usize,
        decoder: impl Read,
        limit: u64,
    ) -> Result<Vec<u8>, DecompressError> {
        let result = self.budget.read(compressed, decoder, limit);
        if matches!(result, Err(DecompressError::Budget)) {
            self.exceeded.store(true, Ordering::Relaxed);
        }
        result
    }

    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(n: u64) -> impl Read {
        io::repeat(0).take(n)
    }

    #[test]
    fn compressed_bytes_pay_for_decompressed_ones() {
        let budget = DecompressionBudget::new();
        let read = |compressed, bytes| budget.read(compressed, zeros(bytes), u64::MAX);
        assert_eq!(read(1000, FREE_BYTES).unwrap().len() as u64, FREE_BYTES);
        // The thousand bytes have paid for twenty thousand more.
        assert_eq!(read(0, 20_000).unwrap().len(), 20_000);
        assert!(matches!(read(0, 1), Err(DecompressError::Budget)));
        assert!(matches!(read(1000, 1 << 40), Err(DecompressError::Budget)));
        // What the bomb has used up is gone, but an honest section pays for itself.
        assert_eq!(read(100_000, 1_000_000).unwrap().len(), 1_000_000);
    }

    #[test]
    fn a_bomb_ends_within_a_chunk_of_the_budget() {
        let mut out = Vec::new();
        let left = Left { bytes: 1_000_000, time: FREE_TIME };
        let end = read_within(zeros(1 << 40), u64::MAX, left, Instant::now(), &mut out);
        assert!(matches!(end, Err(DecompressError::Budget)));
        assert!(out.len() as u64 <= 1_000_000 + CHUNK, "{}", out.len());
    }

    #[test]
    fn a_stream_that_is_slow_ends_with_its_time() {
        /// A byte in each call takes as long as the work of many.
        struct Slow;
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                std::thread::sleep(Duration::from_millis(1));
                let n = buffer.len().min(64 << 10);
                buffer[..n].fill(0);
                Ok(n)
            }
        }
        let left = Left { bytes: u64::MAX, time: Duration::from_millis(20) };
        let began = Instant::now();
        let end = read_within(Slow, u64::MAX, left, began, &mut Vec::new());
        assert!(matches!(end, Err(DecompressError::Budget)));
    }

    #[test]
    fn a_limit_of_one_file_is_not_the_budget() {
        let share = Share::default();
        assert!(matches!(share.read(1000, zeros(11), 10), Err(DecompressError::Limit)));
        assert!(!share.exceeded());
        assert!(matches!(share.read(0, zeros(1 << 40), u64::MAX), Err(DecompressError::Budget)));
        assert!(share.exceeded());
    }
}

//! Reads the bucket lists in which the runtime counts samples (runtime/mprof.go).
//!
//! ```text
//!  mbuckets, bbuckets, xbuckets ─► newest bucket ─allnext─► … ─allnext─► oldest
//!  bucket: 0 next   8 allnext   16 typ   24 hash   32 size   40 nstk   48 stack[nstk]   record
//! ```
//!
//! Buckets are never freed, moved or unlinked, their stacks never change, and new ones are
//! prepended. So a list can be read while it grows, and each bucket is walked to and parsed only
//! once: after that, only its record changes. Programs have tens of thousands of buckets.

use std::sync::Arc;

use image::{Avma, Memory};

use crate::disjoint::Disjoint;
use crate::raw::{PageCache, u64_at};
use crate::{ReadError, Runtime, Variable};

/// Buckets of a list: more distinct stacks and sizes than any program has (300 bytes each).
const MAX_BUCKETS: usize = 1 << 20;
/// Frames of all buckets, which bounds our memory.
const MAX_FRAMES: usize = 16 << 20;
/// `maxProfStackDepth` since 1.23; 32 before.
const MAX_STACK: usize = 1024 + 8;
/// In bytes: more than the fields before the stack, and more than a record.
const HEAD: usize = 256;
const MAX_RECORD: usize = 256;

/// Buckets are adjacent in blocks of 256 KiB, with small gaps. Gaps of up to this many bytes are
/// read along: less than a page, so that every page that is read holds a part of a bucket.
const MAX_GAP: u64 = 512;
/// Bytes of one read.
const MAX_RUN: u64 = 256 << 10;

/// A stack (and object size) that samples are counted for.
struct Bucket {
    at: u64,
    stack: Arc<[Avma]>,
    /// The size of each object, for heap records.
    size: u64,
}

/// The buckets of one list that are known so far.
pub(crate) struct BucketList {
    list: Variable,
    kind: u64,
    /// Size of the record after the stack, in bytes.
    record: usize,
    /// Oldest first, so that the index of a bucket does not change.
    buckets: Vec<Bucket>,
    frames: usize,
    /// The newest known bucket, at which the next walk ends.
    head: u64,
    /// Indices of the buckets, sorted by address.
    by_address: Vec<u32>,
}

/// The records of all buckets at about the same moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    size: usize,
    /// Sorted indices of buckets that could not be read or are not the same any more.
    invalid: Vec<u32>,
}

impl Records {
    /// The bytes of a bucket's record. `None` if it is unknown or could not be read.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_mul(self.size)?;
        let record = self.bytes.get(start..start.checked_add(self.size)?)?;
        let index = u32::try_from(index).ok()?;
        self.invalid.binary_search(&index).is_err().then_some(record)
    }

    pub fn len(&self) -> usize {
        self.bytes.len().checked_div(self.size).unwrap_or(0)
    }
}

impl BucketList {
    pub fn new(list: Variable, kind: u64, record: u64) -> Self {
        let record = usize::try_from(record).unwrap_or(0);
        let (buckets, by_address) = (Vec::new(), Vec::new());
        Self { list, kind, record, buckets, frames: 0, head: 0, by_address }
    }

    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    pub fn stack(&self, index: usize) -> Arc<[Avma]> {
        self.buckets.get(index).map(|b| b.stack.clone()).unwrap_or_default()
    }

    pub fn object_size(&self, index: usize) -> u64 {
        self.buckets.get(index).map_or(0, |b| b.size)
    }

    /// Walks from the newest bucket to the known ones and adds the buckets in between. On an error
    /// the known buckets do not change.
    fn follow(&mut self, runtime: &Runtime, memory: &dyn Memory) -> Result<(), ReadError> {
        let head = memory.read_u64(runtime.address(self.list)?)?;
        let memory = &PageCache::new(memory);
        let mut bytes = [0; HEAD + 8 * MAX_STACK];
        let (mut fresh, mut frames) = (Vec::new(), self.frames);
        let (mut next, mut ranges) = (head, Disjoint::default());
        while next != self.head {
            if next == 0 {
                return Err(ReadError::Implausible("records disappeared from the list of samples"));
            }
            let known = self.len() + fresh.len();
            if known >= MAX_BUCKETS || frames > MAX_FRAMES {
                return Err(ReadError::Implausible("the list of samples does not end"));
            }
            let (bucket, after) = self.read_bucket(runtime, memory, next, &mut bytes)?;
            let size = self.bytes_of(runtime, bucket.stack.len()) as u64;
            if !ranges.add(next, next.saturating_add(size)) {
                return Err(ReadError::Implausible(
                    "the list of samples leads to the same memory twice",
                ));
            }
            frames += bucket.stack.len();
            fresh.push(bucket);
            next = after;
        }
        if !fresh.is_empty() {
            self.buckets.extend(fresh.into_iter().rev());
            (self.head, self.frames) = (head, frames);
            let indices = self.by_address.len()..self.buckets.len();
            self.by_address.extend(indices.filter_map(|i| u32::try_from(i).ok()));
            let buckets = &self.buckets;
            self.by_address.sort_by_key(|i| buckets.get(*i as usize).map(|b| b.at));
        }
        Ok(())
    }

    /// Parses a bucket, and returns it with the address of the next one.
    fn read_bucket(
        &self,
        runtime: &Runtime,
        memory: &dyn Memory,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(Bucket, u64), ReadError> {
        let layout = &runtime.layout;
        let wrong_kind = ReadError::Implausible("a sample record has the wrong kind");
        let (head, frames) = bytes.split_at_mut(HEAD);
        let end = usize::try_from(layout.sizeof_bucket).unwrap_or(usize::MAX);
        let head = head.get_mut(..end).ok_or(wrong_kind.clone())?;
        memory.read(Avma(at), head)?;
        let depth = usize::try_from(u64_at(head, layout.bucket_nstk)).unwrap_or(usize::MAX);
        // The runtime completes a bucket before it links it, so this is not a bucket.
        if u64_at(head, layout.bucket_typ) != self.kind || depth > MAX_STACK {
            return Err(wrong_kind);
        }
        let frames = frames.get_mut(..8 * depth).ok_or(wrong_kind)?;
        memory.read(Avma(at).wrapping_add(layout.sizeof_bucket), frames)?;
        let stack = frames.chunks_exact(8).map(|word| Avma(u64_at(word, 0))).collect();
        let size = u64_at(head, layout.bucket_size);
        Ok((Bucket { at, stack, size }, u64_at(head, layout.bucket_allnext)))
    }

    /// Adds new buckets, and reads the records of all.
    pub fn read(&mut self, runtime: &Runtime, memory: &dyn Memory) -> Result<Records, ReadError> {
        if self.record > MAX_RECORD {
            return Err(ReadError::Implausible("the size of a sample record"));
        }
        self.follow(runtime, memory)?;
        let size = self.record;
        let mut records = Records { bytes: vec![0; self.len() * size], size, invalid: Vec::new() };
        let (mut rest, mut bytes) = (&self.by_address[..], Vec::new());
        while let Some(first) = rest.first() {
            let start = self.at(*first);
            let (count, end) = self.run(runtime, rest);
            let (run, others) = rest.split_at(count);
            bytes.resize(usize::try_from(end - start).unwrap_or(0), 0);
            let readable = memory.read(Avma(start), &mut bytes).is_ok();
            for index in run {
                let from = usize::try_from(self.at(*index) - start).unwrap_or(0);
                let mut own = Vec::new();
                let bucket = match bytes.get(from..) {
                    Some(bucket) if readable => bucket,
                    _ => {
                        own.resize(self.size_of(runtime, *index), 0);
                        let _ = memory.read(Avma(self.at(*index)), &mut own);
                        &own
                    }
                };
                if self.copy_record(runtime, *index, bucket, &mut records.bytes).is_none() {
                    records.invalid.push(*index);
                }
            }
            rest = others;
        }
        // If the program has ended or called exec meanwhile, all buckets are gone.
        memory.read_u64(runtime.address(self.list)?)?;
        if records.invalid.len() == self.len() && self.len() > 0 {
            return Err(ReadError::Implausible("all sample records disappeared"));
        }
        records.invalid.sort_unstable();
        Ok(records)
    }

    fn at(&self, index: u32) -> u64 {
        self.buckets.get(index as usize).map_or(0, |b| b.at)
    }

    /// The size of a bucket including its record, in bytes.
    fn size_of(&self, runtime: &Runtime, index: u32) -> usize {
        let depth = self.buckets.get(index as usize).map_or(0, |b| b.stack.len());
        self.bytes_of(runtime, depth)
    }

    /// The size of a bucket with a stack of `depth` frames, in bytes.
    fn bytes_of(&self, runtime: &Runtime, depth: usize) -> usize {
        usize::try_from(runtime.layout.sizeof_bucket).unwrap_or(0) + 8 * depth + self.record
    }

    /// How many of the first `sorted` buckets to read together, and the address where they end.
    fn run(&self, runtime: &Runtime, sorted: &[u32]) -> (usize, u64) {
        let end_of = |n: u32| self.at(n).saturating_add(self.size_of(runtime, n) as u64);
        let Some(first) = sorted.first() else { return (0, 0) };
        let (start, mut end) = (self.at(*first), end_of(*first));
        let near = |n: &&u32| {
            let is_near = self.at(**n) <= end.saturating_add(MAX_GAP) && end - start < MAX_RUN;
            if is_near {
                end = end.max(end_of(**n));
            }
            is_near
        };
        let more = sorted.iter().skip(1).take_while(near).count();
        (1 + more, end)
    }

    /// Copies a bucket's record to its position in `records`. `None` if the bucket has changed.
    fn copy_record(
        &self,
        runtime: &Runtime,
        index: u32,
        bucket: &[u8],
        records: &mut [u8],
    ) -> Option<()> {
        let (layout, index) = (&runtime.layout, index as usize);
        let depth = self.buckets.get(index)?.stack.len();
        let is_same = u64_at(bucket, layout.bucket_typ) == self.kind
            && u64_at(bucket, layout.bucket_nstk) == depth as u64;
        let from = usize::try_from(layout.sizeof_bucket).ok()? + 8 * depth;
        let record = bucket.get(from..from + self.record).filter(|_| is_same)?;
        let start = index * self.record;
        records.get_mut(start..start + self.record)?.copy_from_slice(record);
        Some(())
    }
}

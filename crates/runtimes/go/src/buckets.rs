//! The lists in which the runtime counts what it samples (runtime/mprof.go).
//!
//! ```text
//!  mbuckets, bbuckets, xbuckets ─► newest bucket ─allnext─► … ─allnext─► oldest
//!  bucket: 0 next   8 allnext   16 typ   24 hash   32 size   40 nstk   48 stack[nstk]   record
//! ```
//!
//! Buckets are never freed, moved or unlinked, their stacks never change, and new ones are put in
//! front. So a list can be read while it grows, and each bucket is walked to and taken apart only
//! once: afterwards its record is all that is new. Programs have tens of thousands of them.

use std::sync::Arc;

use image::{Avma, Memory};

use crate::raw::{Paged, u64_at};
use crate::{ReadError, Runtime, Variable};

/// More buckets (distinct stacks and sizes) than any program has; each takes 300 bytes of it.
const MAX_BUCKETS: usize = 1 << 20;
/// And what their stacks may take of our memory: in a list that lies, buckets overlap.
const MAX_FRAMES: usize = 16 << 20;
/// `maxProfStackDepth` since 1.23; 32 before.
const MAX_STACK: usize = 1024 + 8;
/// More than the fields before the stack take, and than a record does.
const HEAD: usize = 256;
const MAX_RECORD: usize = 256;

/// Buckets lie one behind the other in blocks of 256 KiB, with little else between. What lies
/// between two is read along: below the size of a page, so that no page is read that holds no part
/// of a bucket.
const GAP: u64 = 512;
const RUN: u64 = 256 << 10;

/// One place at which something is sampled.
struct Bucket {
    at: u64,
    stack: Arc<[Avma]>,
    /// Of heap records: the size of each object.
    size: u64,
}

/// The buckets of one kind that are known so far.
pub(crate) struct BucketList {
    list: Variable,
    kind: u64,
    /// How many bytes follow the stack.
    record: usize,
    /// Oldest first, so that a place keeps its number.
    buckets: Vec<Bucket>,
    frames: usize,
    /// The newest: where a walk ends.
    head: u64,
    by_address: Vec<u32>,
}

/// The records of all buckets, read at about the same moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    size: usize,
    /// Numbers of those that could not be read, or whose bucket is another one.
    unsound: Vec<u32>,
}

impl Records {
    /// The words of a bucket's record; `None` where it could not be read, or is not known.
    pub fn get(&self, number: usize) -> Option<&[u8]> {
        let begin = number.checked_mul(self.size)?;
        let record = self.bytes.get(begin..begin.checked_add(self.size)?)?;
        let number = u32::try_from(number).ok()?;
        self.unsound.binary_search(&number).is_err().then_some(record)
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

    pub fn stack(&self, number: usize) -> Arc<[Avma]> {
        self.buckets.get(number).map(|b| b.stack.clone()).unwrap_or_default()
    }

    pub fn object_size(&self, number: usize) -> u64 {
        self.buckets.get(number).map_or(0, |b| b.size)
    }

    /// Walks from the newest bucket to those that are known already. After an error the list knows
    /// what it knew before.
    fn follow(&mut self, runtime: &Runtime, memory: &dyn Memory) -> Result<(), ReadError> {
        let head = memory.read_u64(runtime.address(self.list)?)?;
        let memory = &Paged::new(memory);
        let mut bytes = [0; HEAD + 8 * MAX_STACK];
        let (mut fresh, mut frames) = (Vec::new(), self.frames);
        let (mut next, mut landmark) = (head, 0);
        while next != self.head {
            if next == 0 {
                return Err(ReadError::Implausible("a list of samples that has lost some"));
            }
            // A walk in a circle comes by the landmark again, wherever the circle begins.
            let known = self.len() + fresh.len();
            if next == landmark || known >= MAX_BUCKETS || frames > MAX_FRAMES {
                return Err(ReadError::Implausible("a list of samples without end"));
            }
            let bucket = self.read_bucket(runtime, memory, next, &mut bytes)?;
            frames += bucket.0.stack.len();
            fresh.push(bucket.0);
            if fresh.len().is_power_of_two() {
                landmark = next;
            }
            next = bucket.1;
        }
        if !fresh.is_empty() {
            self.buckets.extend(fresh.into_iter().rev());
            (self.head, self.frames) = (head, frames);
            let numbers = self.by_address.len()..self.buckets.len();
            self.by_address.extend(numbers.filter_map(|i| u32::try_from(i).ok()));
            let buckets = &self.buckets;
            self.by_address.sort_by_key(|i| buckets.get(*i as usize).map(|b| b.at));
        }
        Ok(())
    }

    /// Reads a bucket that is new to us, and where the next one lies.
    fn read_bucket(
        &self,
        runtime: &Runtime,
        memory: &dyn Memory,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(Bucket, u64), ReadError> {
        let layout = &runtime.layout;
        let other = ReadError::Implausible("a sample of another kind");
        let (head, frames) = bytes.split_at_mut(HEAD);
        let end = usize::try_from(layout.sizeof_bucket).unwrap_or(usize::MAX);
        let head = head.get_mut(..end).ok_or(other.clone())?;
        memory.read(Avma(at), head)?;
        let depth = usize::try_from(u64_at(head, layout.bucket_nstk)).unwrap_or(usize::MAX);
        // A bucket is complete before it is linked in, so what differs is no bucket.
        if u64_at(head, layout.bucket_typ) != self.kind || depth > MAX_STACK {
            return Err(other);
        }
        let frames = frames.get_mut(..8 * depth).ok_or(other)?;
        memory.read(Avma(at).wrapping_add(layout.sizeof_bucket), frames)?;
        let stack = frames.chunks_exact(8).map(|word| Avma(u64_at(word, 0))).collect();
        let size = u64_at(head, layout.bucket_size);
        Ok((Bucket { at, stack, size }, u64_at(head, layout.bucket_allnext)))
    }

    /// Reads the records of all buckets, new ones included.
    pub fn read(&mut self, runtime: &Runtime, memory: &dyn Memory) -> Result<Records, ReadError> {
        if self.record > MAX_RECORD {
            return Err(ReadError::Implausible("the size of a sample"));
        }
        self.follow(runtime, memory)?;
        let size = self.record;
        let mut records = Records { bytes: vec![0; self.len() * size], size, unsound: Vec::new() };
        let (mut rest, mut bytes) = (&self.by_address[..], Vec::new());
        while let Some(first) = rest.first() {
            let start = self.at(*first);
            let (count, end) = self.run(runtime, rest);
            let (run, others) = rest.split_at(count);
            bytes.resize(usize::try_from(end - start).unwrap_or(0), 0);
            let readable = memory.read(Avma(start), &mut bytes).is_ok();
            for number in run {
                let from = usize::try_from(self.at(*number) - start).unwrap_or(0);
                let mut own = Vec::new();
                let bucket = match bytes.get(from..) {
                    Some(bucket) if readable => bucket,
                    _ => {
                        own.resize(self.span(runtime, *number), 0);
                        let _ = memory.read(Avma(self.at(*number)), &mut own);
                        &own
                    }
                };
                if self.take(runtime, *number, bucket, &mut records.bytes).is_none() {
                    records.unsound.push(*number);
                }
            }
            rest = others;
        }
        // A program that ends or becomes another one meanwhile has none of them any more.
        memory.read_u64(runtime.address(self.list)?)?;
        if records.unsound.len() == self.len() && self.len() > 0 {
            return Err(ReadError::Implausible("samples that are there no more"));
        }
        records.unsound.sort_unstable();
        Ok(records)
    }

    fn at(&self, number: u32) -> u64 {
        self.buckets.get(number as usize).map_or(0, |b| b.at)
    }

    /// The bytes of a bucket, its record included.
    fn span(&self, runtime: &Runtime, number: u32) -> usize {
        let depth = self.buckets.get(number as usize).map_or(0, |b| b.stack.len());
        usize::try_from(runtime.layout.sizeof_bucket).unwrap_or(0) + 8 * depth + self.record
    }

    /// How many buckets at the begin of these lie side by side, and the end of the last byte.
    fn run(&self, runtime: &Runtime, sorted: &[u32]) -> (usize, u64) {
        let end_of = |n: u32| self.at(n).saturating_add(self.span(runtime, n) as u64);
        let Some(first) = sorted.first() else { return (0, 0) };
        let (start, mut end) = (self.at(*first), end_of(*first));
        let near = |n: &&u32| {
            let is_near = self.at(**n) <= end.saturating_add(GAP) && end - start < RUN;
            if is_near {
                end = end.max(end_of(**n));
            }
            is_near
        };
        let more = sorted.iter().skip(1).take_while(near).count();
        (1 + more, end)
    }

    /// Puts a bucket's record in its place, if the bucket is the one that it was.
    fn take(
        &self,
        runtime: &Runtime,
        number: u32,
        bucket: &[u8],
        records: &mut [u8],
    ) -> Option<()> {
        let (layout, number) = (&runtime.layout, number as usize);
        let depth = self.buckets.get(number)?.stack.len();
        let is_it = u64_at(bucket, layout.bucket_typ) == self.kind
            && u64_at(bucket, layout.bucket_nstk) == depth as u64;
        let from = usize::try_from(layout.sizeof_bucket).ok()? + 8 * depth;
        let record = bucket.get(from..from + self.record).filter(|_| is_it)?;
        let place = number * self.record;
        records.get_mut(place..place + self.record)?.copy_from_slice(record);
        Some(())
    }
}

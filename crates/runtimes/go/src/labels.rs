//! Reads the profiler labels of a goroutine (Go's runtime/pprof/label.go).

use image::{Avma, Memory, Unreadable};

use crate::Layout;
use crate::raw;

/// Limits per goroutine and, in bytes, per key or value. Longer labels are truncated.
const MAX_LABELS: u64 = 256;
const MAX_TEXT: usize = 4096;

/// Labels sorted by key, and whether some are missing or truncated.
type Labels = (Vec<(String, String)>, bool);

/// Reads the labels that `g.labels` points to.
pub(crate) fn read(memory: &dyn Memory, layout: &Layout, pointer: u64) -> Labels {
    if pointer == 0 {
        return (Vec::new(), false);
    }
    let mut reader = Reader { memory, labels: Vec::new(), incomplete: false };
    let done = if layout.labels_are_a_map() {
        reader.map(Avma(pointer))
    } else {
        reader.slice(Avma(pointer))
    };
    reader.incomplete |= done.is_err();
    reader.labels.sort();
    (reader.labels, reader.incomplete)
}

struct Reader<'a> {
    memory: &'a dyn Memory,
    labels: Vec<(String, String)>,
    incomplete: bool,
}

impl Reader<'_> {
    /// Reads the labels of Go 1.24 and later: a slice {array, length, capacity} of {key, value}.
    fn slice(&mut self, at: Avma) -> Result<(), Unreadable> {
        let header = raw::words(self.memory, at, 2)?;
        let count = header[1].min(MAX_LABELS);
        self.incomplete |= count != header[1];
        for i in 0..count {
            let pair = raw::words(self.memory, Avma(header[0]).wrapping_add(i * 32), 4)?;
            self.add([pair[0], pair[1]], [pair[2], pair[3]])?;
        }
        Ok(())
    }

    /// Reads the labels of Go 1.23 and earlier: a `map[string]string`, that is a `runtime.hmap`
    /// (runtime/map.go):
    ///
    /// ```text
    /// hmap: 0 count   8 flags u8   9 B u8   10 noverflow u16   12 hash0   16 buckets   24 oldbuckets
    /// bmap: 0 tophash [8]u8   8 keys [8]string   136 values [8]string   264 overflow
    /// ```
    ///
    /// A growing map keeps some entries in the old array. A label map is never modified once it is
    /// set, so it may remain in that state.
    fn map(&mut self, at: Avma) -> Result<(), Unreadable> {
        let map = self.memory.read_u64(at)?;
        if map == 0 {
            return Ok(());
        }
        let words = raw::words(self.memory, Avma(map), 4)?;
        let (count, log) = (words[0], (words[1] >> 8) & 0xff);
        let same_size = words[1] & 8 != 0;
        self.incomplete |= count > MAX_LABELS;
        let buckets = 1u64 << log.min(8);
        self.buckets(words[2], buckets, count)?;
        if words[3] != 0 {
            let old = if same_size { buckets } else { buckets / 2 };
            self.buckets(words[3], old, count)?;
        }
        self.labels.sort();
        self.labels.dedup();
        self.incomplete |= self.labels.len() as u64 != count;
        Ok(())
    }

    fn buckets(&mut self, array: u64, buckets: u64, count: u64) -> Result<(), Unreadable> {
        for i in 0..buckets {
            let mut bucket = Avma(array).wrapping_add(i * 272);
            // Each overflow bucket holds eight entries.
            for _ in 0..=count.min(MAX_LABELS) / 8 + 1 {
                if bucket.0 == 0 || self.labels.len() as u64 >= MAX_LABELS {
                    break;
                }
                let words = raw::words(self.memory, bucket, 34)?;
                for (slot, top) in words[0].to_le_bytes().into_iter().enumerate() {
                    // Below 5 (minTopHash) the slot is empty or was moved to the new array.
                    if top >= 5 {
                        let (key, value) = (1 + 2 * slot, 17 + 2 * slot);
                        let pair = |at: usize| [words[at], words[at + 1]];
                        self.add(pair(key), pair(value))?;
                    }
                }
                bucket = Avma(words[33]);
            }
        }
        Ok(())
    }

    fn add(&mut self, key: [u64; 2], value: [u64; 2]) -> Result<(), Unreadable> {
        let (key, key_truncated) = raw::string(self.memory, key[0], key[1], MAX_TEXT)?;
        let (value, value_truncated) = raw::string(self.memory, value[0], value[1], MAX_TEXT)?;
        self.incomplete |= key_truncated || value_truncated;
        self.labels.push((key, value));
        Ok(())
    }
}

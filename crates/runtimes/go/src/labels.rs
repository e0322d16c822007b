//! Reads the profiler labels of a goroutine (Go's runtime/pprof/label.go).

use image::{Avma, Memory, Unreadable};

use crate::Layout;
use crate::raw::{self, u64_at};

/// Limits per goroutine and, in bytes, per key or value. Longer labels are truncated.
const MAX_LABELS: u64 = 256;
const MAX_TEXT: usize = 4096;
/// What a label costs in addition to its text, in bytes.
const PER_LABEL: usize = 16;

/// Labels sorted by key, and whether some are missing or truncated.
type Labels = (Vec<(String, String)>, bool);

/// Bytes of labels that may still be read. All goroutines of a hostile program may refer to the same
/// 2 MiB of labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget(usize);

impl Budget {
    /// For all goroutines of a program: four million with a label of 16 bytes each.
    pub(crate) const fn of_all() -> Self {
        Self(128 << 20)
    }

    /// For one goroutine: as much as it can have.
    const fn of_one() -> Self {
        Self(usize::MAX)
    }
}

/// Reads the labels that `g.labels` points to.
pub(crate) fn read(memory: &dyn Memory, layout: &Layout, pointer: u64) -> Labels {
    read_within(memory, layout, pointer, &mut Budget::of_one())
}

/// Like [`read`]. Labels that the budget does not allow are missing.
pub(crate) fn read_within(
    memory: &dyn Memory,
    layout: &Layout,
    pointer: u64,
    budget: &mut Budget,
) -> Labels {
    if pointer == 0 {
        return (Vec::new(), false);
    }
    if budget.0 < PER_LABEL {
        return (Vec::new(), true);
    }
    let mut reader = Reader { memory, labels: Vec::new(), incomplete: false, budget };
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
    budget: &'a mut Budget,
}

impl Reader<'_> {
    /// Reads the labels of Go 1.24 and later: a slice {array, length, capacity} of {key, value}.
    fn slice(&mut self, at: Avma) -> Result<(), Unreadable> {
        let header = raw::words(self.memory, at, 2)?;
        let count = header[1].min(MAX_LABELS);
        self.incomplete |= count != header[1];
        let mut pairs = vec![0; usize::try_from(count * 32).unwrap_or(0)];
        self.memory.read(Avma(header[0]), &mut pairs)?;
        for pair in pairs.chunks_exact(32) {
            let word = |at| u64_at(pair, at);
            self.add([word(0), word(8)], [word(16), word(24)])?;
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
        let text = |length: u64| usize::try_from(length).unwrap_or(MAX_TEXT).min(MAX_TEXT);
        let cost = PER_LABEL + text(key[1]) + text(value[1]);
        let Some(left) = self.budget.0.checked_sub(cost) else {
            self.incomplete = true;
            return Ok(());
        };
        self.budget.0 = left;
        let (key, key_truncated) = raw::string(self.memory, key[0], key[1], MAX_TEXT)?;
        let (value, value_truncated) = raw::string(self.memory, value[0], value[1], MAX_TEXT)?;
        self.incomplete |= key_truncated || value_truncated;
        self.labels.push((key, value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slice of 256 labels at 0x1000, whose keys and values all are the 4,096 bytes at 0x8000.
    struct Same;

    impl Memory for Same {
        fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
            for (at, byte) in (addr.0..).zip(buf) {
                let word: u64 = match at / 8 * 8 {
                    0x1000 => 0x2000,
                    0x1008 => 256,
                    at @ 0x2000..0x8000 => [0x8000, 4096][usize::from(at % 16 == 8)],
                    _ => u64::from_le_bytes([b'x'; 8]),
                };
                *byte = word.to_le_bytes()[(at % 8) as usize];
            }
            Ok(())
        }
    }

    #[test]
    fn goroutines_with_the_same_long_labels_share_a_budget() {
        let layout = Layout::nearest(27);
        let (one, incomplete) = read(&Same, &layout, 0x1000);
        assert_eq!((one.len(), incomplete), (256, false));
        let (mut budget, mut bytes, mut whole) = (Budget::of_all(), 0, 0);
        for _ in 0..80 {
            let (labels, incomplete) = read_within(&Same, &layout, 0x1000, &mut budget);
            bytes += labels.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
            whole += usize::from(!incomplete);
        }
        assert_eq!(whole, 63, "2 MiB of labels each");
        assert!(bytes <= 128 << 20, "{bytes}");
    }
}

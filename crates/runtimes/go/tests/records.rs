//! Reads a Go program's profile records repeatedly with one reader.
//!
//! Must be as exact as a new reader, cheaper, and safe if the list changes.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use common::{Build, ProcMemory, Target, for_each_version, installed};
use goruntime::{ContentionReader, HeapReader, HeapRecord, HeapView, ReadError, Runtime, Variable};
use image::{Avma, Memory, Unreadable};

// Offsets in `runtime.bucket`, equal in all versions: see src/offsets.rs.
const ALLNEXT: u64 = 8;
const TYP: u64 = 16;
const NSTK: u64 = 40;
const STACK: u64 = 48;

/// Live memory, with some words replaced and one range unreadable.
struct Corrupted<'a> {
    live: &'a ProcMemory,
    words: RefCell<BTreeMap<u64, u64>>,
    unreadable: Cell<(u64, u64)>,
    /// Bytes read so far.
    read: Cell<usize>,
}

impl<'a> Corrupted<'a> {
    fn new(live: &'a ProcMemory) -> Self {
        Self { live, words: RefCell::default(), unreadable: Cell::new((0, 0)), read: Cell::new(0) }
    }

    fn set(&self, at: u64, word: u64) {
        self.words.borrow_mut().insert(at, word);
    }

    fn restore(&self) {
        self.words.borrow_mut().clear();
        self.unreadable.set((0, 0));
    }
}

impl Memory for Corrupted<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.read.set(self.read.get() + buf.len());
        let end = addr.0 + buf.len() as u64;
        let (from, to) = self.unreadable.get();
        if addr.0 < to && from < end {
            return Err(Unreadable(addr));
        }
        self.live.read(addr, buf)?;
        for (at, word) in self.words.borrow().range(addr.0.saturating_sub(7)..end) {
            for (at, byte) in (*at..).zip(word.to_le_bytes()) {
                if (addr.0..end).contains(&at) {
                    buf[(at - addr.0) as usize] = byte;
                }
            }
        }
        Ok(())
    }
}

fn list_of(runtime: &Runtime, memory: &dyn Memory, variable: Variable) -> (u64, Vec<u64>) {
    let head = runtime.evidence(variable).and_then(|e| e.address()).expect("its address").0;
    let next = |at: u64| Some(memory.read_u64(Avma(at)).expect("a word")).filter(|w| *w != 0);
    let all = std::iter::successors(next(head), |bucket| next(bucket + ALLNEXT));
    (head, all.collect())
}

fn heap(reader: &mut HeapReader, target: &Target, memory: &dyn Memory) -> Vec<HeapRecord> {
    let reading = reader.read(&target.runtime, memory).expect("a reading");
    let profile = reader.profile(&reading, HeapView::Live);
    assert_eq!((profile.implausible, profile.unsettled), (0, false));
    profile.records
}

#[test]
fn repeated_readings_equal_new_ones() {
    for_each_version(|version| {
        let mut target = Target::start(version, "truth", Build::Stripped);
        let mut reader = HeapReader::new(&target.runtime);
        let (mut block, mut mutex) = (ContentionReader::block(), ContentionReader::mutex());
        let mut sizes = Vec::new();
        for commands in [&[][..], &["alloc 10", "contend 2"], &["gc", "alloc 10"], &["contend 3"]] {
            commands.iter().for_each(|c| drop(target.ask(c)));
            let size = target.while_stopped(|| {
                let (runtime, memory) = (&target.runtime, &target.memory);
                let reading = reader.read(runtime, memory).expect("a reading");
                for view in [HeapView::Live, HeapView::Published] {
                    let fresh = runtime.heap_profile(memory, view).expect("a profile");
                    assert_eq!(reader.profile(&reading, view).records, fresh.records, "{version}");
                }
                let fresh = runtime.block_profile(memory).expect("a profile").records;
                let again = block.read(runtime, memory).expect("a profile").records;
                assert_eq!(again, fresh, "{version} block");
                let places = again.len();
                let fresh = runtime.mutex_profile(memory).expect("a profile").records;
                assert_eq!(mutex.read(runtime, memory).expect("a profile").records, fresh);
                let live = reader.profile(&reading, HeapView::Live).records;
                assert_eq!(reading.rate(), 512 << 10);
                (live.len(), places, live.iter().map(|r| r.allocated).sum::<u64>())
            });
            sizes.push(size);
        }
        // Both lists and the counts grew between the readings.
        assert!(sizes[0].0 < sizes[1].0 && sizes[1].2 < sizes[2].2, "{version}: {sizes:?}");
        assert!(sizes[0].1 < sizes[1].1, "{version}: {sizes:?}");
    });
}

#[test]
fn known_buckets_are_not_read_again() {
    for version in installed(&["1.21.13", "1.27.3"]) {
        let mut target = Target::start(version, "truth", Build::Plain);
        target.ask("alloc 20");
        let memory = Corrupted::new(&target.memory);
        target.while_stopped(|| {
            let mut reader = HeapReader::new(&target.runtime);
            let first = heap(&mut reader, &target, &memory);
            let (_, list) = list_of(&target.runtime, &target.memory, Variable::Mbuckets);
            memory.read.set(0);
            assert_eq!(heap(&mut reader, &target, &memory), first, "{version}");
            // The buckets, small gaps between them, and a few variables.
            let most: usize = first.iter().map(|r| 48 + 8 * r.stack.len() + 128 + 512).sum();
            let read = memory.read.get();
            assert!(read <= most + 256, "{version}: {read} bytes for {} buckets", list.len());
        });
    }
}

/// The address range of a bucket at `at`, assuming the largest record.
fn bucket(record: &HeapRecord, at: u64) -> Range<u64> {
    at..at + STACK + 8 * record.stack.len() as u64 + 128
}

#[test]
fn changed_lists_are_detected() {
    for version in installed(&["1.21.13", "1.27.3"]) {
        let mut target = Target::start(version, "truth", Build::Plain);
        target.ask("alloc 20");
        let memory = Corrupted::new(&target.memory);
        let runtime = &target.runtime;
        target.while_stopped(|| {
            let (head, list) = list_of(runtime, &target.memory, Variable::Mbuckets);
            assert!(list.len() >= 3, "{version}: {list:?}");
            let mut reader = HeapReader::new(runtime);
            let before = reader.read(runtime, &memory).expect("a reading");
            let records = reader.profile(&before, HeapView::Live).records;
            assert_eq!(records.len(), list.len());
            let mut one_is_missing = |what: &str, lost: usize| {
                let reading = reader.read(runtime, &memory).expect(what);
                let profile = reader.profile(&reading, HeapView::Live);
                let others =
                    records.iter().enumerate().filter(|(i, _)| *i != lost).map(|(_, r)| r.clone());
                assert_eq!(profile.implausible, 1, "{version} {what}");
                assert_eq!(profile.records, others.collect::<Vec<_>>(), "{version} {what}");
                memory.restore();
            };
            memory.set(list[1] + NSTK, 1000);
            one_is_missing("another depth", 1);
            memory.set(list[2] + TYP, 3);
            one_is_missing("another kind", 2);
            // Only the bucket's start, so that its neighbor remains readable.
            let gone = bucket(&records[0], list[0]);
            memory.unreadable.set((gone.start, gone.start + 8));
            one_is_missing("unreadable", 0);

            let mut rejected = |what: &str| {
                let error = reader.read(runtime, &memory).expect_err(what);
                memory.restore();
                assert_eq!(reader.profile(&before, HeapView::Live).records, records, "{what}");
                error
            };
            let implausible = |error| matches!(error, ReadError::Implausible(_));
            memory.set(head, 0);
            assert!(implausible(rejected("the list is empty")), "{version}");
            memory.set(head, list[1]);
            assert!(implausible(rejected("the newest bucket is missing")), "{version}");
            let whole = (list.iter().min().copied(), list.iter().max().copied());
            memory.unreadable.set((whole.0.unwrap_or(0), whole.1.unwrap_or(0) + 1));
            assert!(implausible(rejected("all buckets are missing")), "{version}");
            memory.set(head, 8);
            assert!(matches!(rejected("an invalid head"), ReadError::Unreadable(_)), "{version}");
            assert_eq!(
                heap(&mut reader, &target, &memory),
                records,
                "{version}: the reader recovers"
            );
        });
    }
}

#[test]
fn endless_lists_are_rejected() {
    let mut target = Target::start("1.27.3", "truth", Build::Plain);
    target.ask("alloc 20");
    let memory = Corrupted::new(&target.memory);
    let runtime = &target.runtime;
    target.while_stopped(|| {
        let (head, list) = list_of(runtime, &target.memory, Variable::Mbuckets);
        let endless = || {
            let error = HeapReader::new(runtime).read(runtime, &memory).map(drop);
            assert_eq!(
                error,
                Err(ReadError::Implausible("the list of samples leads to the same memory twice"))
            );
        };
        // Cycles that start at different points of the list.
        for (from, to) in [(list.len() - 1, 0), (list.len() - 1, list.len() - 1), (2, 1)] {
            memory.set(list[from] + ALLNEXT, list[to]);
            endless();
            memory.restore();
        }
        // Buckets that overlap with the stack of the previous bucket. With the deepest stacks, they
        // would use gigabytes of our memory but only a hundredth of that in the target.
        struct Overlapping<'a>(&'a Corrupted<'a>, u64);
        impl Memory for Overlapping<'_> {
            fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
                if addr.0 < 1 << 40 {
                    return self.0.read(addr, buf);
                }
                for (at, byte) in (addr.0..).zip(buf) {
                    // 48 bytes: the next address at 8, the kind at 16, the depth at 40.
                    let (bucket, field) = (at - at % 48, at % 48);
                    let word = match field / 8 {
                        1 => bucket + 48,
                        2 => 1,
                        5 => self.1,
                        _ => 0,
                    };
                    *byte = word.to_le_bytes()[(field % 8) as usize];
                }
                Ok(())
            }
        }
        let start = (1 << 40) - (1 << 40) % 48 + 48;
        memory.set(head, start);
        for depth in [0, 1032] {
            let memory = Overlapping(&memory, depth);
            let error = HeapReader::new(runtime).read(runtime, &memory).map(drop);
            assert_eq!(
                error,
                Err(ReadError::Implausible("the list of samples leads to the same memory twice"))
            );
        }
    });
}

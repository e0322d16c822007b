//! Reads a Go program's recorded memory, intact and corrupted.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use common::{Build, ProcMemory, Target, installed};
use goruntime::{HeapView, Runtime, format_goroutines, format_goroutines_grouped};
use image::{Avma, Memory, Unreadable};

const PAGE: u64 = 4096;

/// Reads whole pages of a live target and stores them.
struct Recorder<'a> {
    live: &'a ProcMemory,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

/// Stored pages. About one in `wrong_every` bytes reads wrong; 0 means none.
struct Replay {
    pages: BTreeMap<u64, Vec<u8>>,
    wrong_every: u64,
    random: Cell<u64>,
    reads: Cell<u64>,
}

/// Splits a read into pages and calls `page` for each of them.
fn by_pages(
    addr: Avma,
    buf: &mut [u8],
    mut page: impl FnMut(u64, &mut dyn FnMut(&[u8])) -> bool,
) -> Result<(), Unreadable> {
    let mut done = 0;
    while done < buf.len() {
        let at = addr.0.checked_add(done as u64).ok_or(Unreadable(addr))?;
        let skip = (at % PAGE) as usize;
        let part = (PAGE as usize - skip).min(buf.len() - done);
        let target = &mut buf[done..done + part];
        if !page(at - at % PAGE, &mut |p| target.copy_from_slice(&p[skip..skip + part])) {
            return Err(Unreadable(addr));
        }
        done += part;
    }
    Ok(())
}

impl Memory for Recorder<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        by_pages(addr, buf, |start, copy| {
            let mut pages = self.pages.borrow_mut();
            let page = pages.entry(start).or_insert_with(|| {
                let mut page = vec![0; PAGE as usize];
                let read = self.live.read(Avma(start), &mut page);
                if read.is_ok() { page } else { Vec::new() }
            });
            if page.is_empty() {
                return false;
            }
            copy(page);
            true
        })
    }
}

impl Memory for Replay {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.reads.set(self.reads.get() + 1);
        by_pages(addr, buf, |start, copy| match self.pages.get(&start) {
            Some(page) if !page.is_empty() => {
                copy(page);
                true
            }
            _ => false,
        })?;
        if self.wrong_every > 0 {
            let mut random = self.random.get();
            for byte in buf {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                if (random >> 20).is_multiple_of(self.wrong_every) {
                    *byte ^= (random >> 50) as u8;
                }
            }
            self.random.set(random);
        }
        Ok(())
    }
}

/// Everything that can be read, as text.
fn everything(runtime: &Runtime, memory: &dyn Memory) -> String {
    let mut text = String::new();
    if let Ok(list) = runtime.goroutine_reader(memory, true).list() {
        text += &format_goroutines(runtime, &list.goroutines, u64::MAX);
        text += &format_goroutines_grouped(runtime, &list.goroutines, "goroutine", 128);
    }
    for view in [HeapView::Live, HeapView::Published] {
        if let Ok(heap) = runtime.heap_profile(memory, view) {
            for r in &heap.records {
                text += &format!("{r:?} {:?}\n", runtime.recorded_frames(&r.stack));
            }
        }
    }
    for profile in [runtime.block_profile(memory), runtime.mutex_profile(memory)] {
        text += &format!("{:?}\n", profile.map(|p| p.records));
    }
    text += &format!("{:?}\n", runtime.threads(memory));
    text += &format!("{:?}\n", runtime.rates(memory));
    text += &format!("{:?}\n", runtime.reset_caches(memory, 4096, &mut || 0.5));
    text
}

#[test]
fn recorded_memory_reads_like_live_memory_and_corrupted_memory_is_harmless() {
    // The older version stores labels in a map, the newer one in a slice.
    for version in installed(&["1.23.9", "1.27.3"]) {
        let mut target = Target::start(version, "truth", Build::Stripped);
        target.ask("alloc 10");
        target.ask("contend 2");
        let recorder = Recorder { live: &target.memory, pages: RefCell::default() };
        let (runtime, recorded, live) = target.while_stopped(|| {
            let found = Runtime::find(&target.image, target.bias, &recorder);
            let runtime = found.expect("a runtime");
            let recorded = everything(&runtime, &recorder);
            let live = everything(&runtime, &target.memory);
            (runtime, recorded, live)
        });
        assert_eq!(live, recorded, "{version}");
        let mut replay = Replay {
            pages: recorder.pages.into_inner(),
            wrong_every: 0,
            random: Cell::new(1),
            reads: Cell::new(0),
        };
        let found = Runtime::find(&target.image, target.bias, &replay).expect("a runtime");
        assert_eq!(everything(&found, &replay), recorded, "{version}");
        assert!(recorded.contains("main.descend") && recorded.len() > 20_000, "{}", recorded.len());

        let (intact_reads, mut affected) = (replay.reads.get(), 0);
        for round in 0..60u64 {
            replay.wrong_every = [30, 300, 3_000][round as usize % 3];
            replay.random.set(round * 977 + 5);
            replay.reads.set(0);
            let _ = Runtime::find(&target.image, target.bias, &replay);
            let text = everything(&runtime, &replay);
            affected += usize::from(text != recorded);
            let reads = replay.reads.get();
            assert!(
                reads < intact_reads * 50,
                "{version}: {reads} reads of corrupted memory, {intact_reads} of intact memory"
            );
        }
        // A rare wrong byte may be irrelevant, but not all frequent ones can be.
        assert!(affected >= 40, "{version}: only {affected} of 60 corruptions changed the result");
    }
}

//! Tests that hostile tables and memory cause neither panics nor unbounded work.

mod common;

use common::{Recording, Regions, build, record};
use image::{Arch, Avma, Memory, Unreadable};
use unwind::{Registers, Unwinder};

/// xorshift64*, with a fixed seed so that failures can be reproduced.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}

const LIMIT: usize = 300;

fn recording() -> Recording {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path(), "steps.c", &[]);
    let script = "recorder.run_to('start')\nrecorder.header()\nrecorder.step(300)";
    record(dir.path(), &program, script)
}

/// Garbles only the unwind sections, so that the image still loads.
fn garble(random: &mut Random, file: &[u8], whole: bool) -> Vec<u8> {
    let image = image::ElfImage::parse(image::ImageBytes::Owned(file.to_vec())).unwrap();
    let base = image.bytes().as_ptr().addr();
    let place = |name| {
        let data = image.section(name).unwrap().data;
        (data.as_ptr().addr() - base, data.len())
    };
    let sections = [place(".eh_frame"), place(".eh_frame_hdr")];
    let mut file = file.to_vec();
    for (start, length) in sections {
        let changes = if whole { length } else { 1 + random.below(2000) };
        for i in 0..changes {
            let at = if whole { i } else { random.below(length) };
            file[start + at] = random.next().to_le_bytes()[0];
        }
    }
    file
}

#[test]
fn garbled_tables() {
    let recording = recording();
    let mut random = Random(0x5eed);
    let mut ends = std::collections::BTreeSet::new();
    for round in 0..60 {
        let space = recording.with_images(|name, file| {
            name.starts_with('/').then(|| garble(&mut random, file, round % 10 == 9))
        });
        let mut unwinder = Unwinder::new(Arch::X86_64);
        unwinder.set_max_frames(LIMIT);
        for stop in &recording.stops {
            let mut frames = Vec::new();
            let end = unwinder.unwind(&space, &stop.registers, &stop.memory, &mut frames);
            assert!((1..=LIMIT).contains(&frames.len()));
            ends.insert(end.to_string().split(" at ").next().unwrap().to_owned());
        }
    }
    assert!(ends.len() >= 5, "garbling had too few effects: {ends:?}");
}

/// Memory in which every word is plausible: a code address or a stack address.
struct Plausible {
    code: (u64, u64),
    stack: u64,
}

impl Memory for Plausible {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let mut random = Random(addr.0 | 1);
        for word in buf.chunks_mut(8) {
            let value = match random.below(3) {
                0 => self.stack + (random.next() & 0xfff8),
                _ => self.code.0 + random.next() % (self.code.1 - self.code.0),
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
        Ok(())
    }
}

#[test]
fn garbage_in_registers_and_memory() {
    let recording = recording();
    let code =
        recording.space.iter().map(|m| (m.start.0, m.end.0)).max_by_key(|m| m.1 - m.0).unwrap();
    let memory = Plausible { code, stack: 0x7fff_0000_0000 };
    let mut random = Random(0xbad);
    let mut unwinder = Unwinder::new(Arch::X86_64);
    let mut deepest = 0;
    for _ in 0..20_000 {
        let mut registers = Registers::unknown(Arch::X86_64);
        for n in 0..16 {
            registers.set(n, memory.stack + (random.next() & 0xfff8));
        }
        registers.set_pc(Avma(code.0 + random.next() % (code.1 - code.0)));
        let mut frames = Vec::new();
        unwinder.unwind(&recording.space, &registers, &memory, &mut frames);
        assert!(frames.len() <= 2048);
        deepest = deepest.max(frames.len());
    }
    assert!(deepest > 10, "the garbage was never plausible");
}

#[test]
fn empty_memory() {
    let recording = recording();
    let mut unwinder = Unwinder::new(Arch::X86_64);
    for stop in &recording.stops {
        let mut frames = Vec::new();
        let nothing = Regions(Vec::new());
        let end = unwinder.unwind(&recording.space, &stop.registers, &nothing, &mut frames);
        assert!(matches!(end, unwind::End::Truncated { .. }), "{end}");
        assert_eq!(frames.len(), 1);
    }
}

//! Measures how long a stack takes with warm caches: `cargo run --release --example unwind_bench -p
//! exoprof-unwind`.
//!
//! The stack is that of `tests/programs/deep.c`, recorded by gdb: 20 frames from a leaf function
//! to `_start`. framehop unwinds the same for comparison.

use image::{Avma, Memory, Unreadable};
use std::hint::black_box;
use std::time::Instant;

#[path = "../tests/common/mod.rs"]
mod common;

/// The stack as perf_event_open copies it: one window.
struct Window<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl Memory for Window<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let at = usize::try_from(addr.0.wrapping_sub(self.start)).map_err(|_| Unreadable(addr))?;
        let end = at.checked_add(buf.len()).ok_or(Unreadable(addr))?;
        buf.copy_from_slice(self.bytes.get(at..end).ok_or(Unreadable(addr))?);
        Ok(())
    }
}

const ROUNDS: u32 = 300_000;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = common::build(dir.path(), "deep.c", &[]);
    let script = "recorder.run_to('bottom')\nrecorder.header()\nrecorder.stop()";
    let recording = common::record(dir.path(), &program, script);
    let stop = &recording.stops[0];
    let (start, bytes) = &stop.memory.0[0];
    let memory = Window { start: *start, bytes };
    let mut unwinder = unwind::Unwinder::new(image::Arch::X86_64);
    let mut frames = Vec::new();
    let end = unwinder.unwind(&recording.space, &stop.registers, &memory, &mut frames);
    println!("{} frames, {end}", frames.len());
    let start = Instant::now();
    for _ in 0..ROUNDS {
        frames.clear();
        let registers = black_box(&stop.registers);
        black_box(unwinder.unwind(&recording.space, registers, &memory, &mut frames));
    }
    report("unwind", start, frames.len());
    let mut framehop = common::oracle::Framehop::new(&recording);
    let depth = framehop.frames_in(stop, &memory).len();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(framehop.frames_in(black_box(stop), &memory));
    }
    report("framehop", start, depth);
}

fn report(what: &str, start: Instant, frames: usize) {
    let per_stack = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
    let per_frame = per_stack / frames as f64;
    println!("{what}: {per_stack:.0} ns per stack, {per_frame:.1} ns per frame ({frames} frames)");
}

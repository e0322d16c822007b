//! Builds profiles with known content.

#![allow(dead_code, reason = "each test crate uses a part of this")]

use pprof::{FunctionSpec, Label, Line, MappingSpec, Profile, ProfileBuilder, ValueType};

pub const MAIN: MappingSpec<'static> = MappingSpec {
    start: 0x5555_5555_6000,
    limit: 0x5555_5558_0000,
    offset: 0x2000,
    file: "/usr/bin/worker",
    build_id: "0123456789abcdef0123456789abcdef01234567",
};

pub const LIBC: MappingSpec<'static> = MappingSpec {
    start: 0x7f00_0002_6000,
    limit: 0x7f00_0017_f000,
    offset: 0x26000,
    file: "/usr/lib/x86_64-linux-gnu/libc.so.6",
    build_id: "ab",
};

/// The header of a cpu profile at 99 Hz.
pub fn cpu_builder() -> ProfileBuilder {
    let types = vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")];
    let mut builder = ProfileBuilder::new(types);
    builder
        .set_period(ValueType::new("cpu", "nanoseconds"), 1_000_000_000 / 99)
        .set_time_nanos(1_700_000_000_000_000_000)
        .set_duration_nanos(30_000_000_000)
        .comment("recorded by exoprof");
    builder
}

/// A valid profile with an inlined call, a library left to symbolize later, and labels.
///
/// Values (samples, cpu): hot←main 7, memcpy←hot←main 3, and 1 under another thread's label.
pub fn cpu() -> Profile {
    let mut b = cpu_builder();
    let main = b.mapping(MAIN).unwrap();
    let libc = b.mapping(LIBC).unwrap();
    let function = |b: &mut ProfileBuilder, name, system_name, start_line| {
        let filename = "/src/worker.rs";
        b.function(FunctionSpec { name, system_name, filename, start_line }).unwrap()
    };
    let f_main = function(&mut b, "worker::main", "_ZN6worker4main17hE", 10);
    let f_hot = function(&mut b, "worker::hot<u64>", "_ZN6worker3hot17hE", 20);
    let f_inline = function(&mut b, "worker::inlined", "_ZN6worker7inlined17hE", 30);
    let lines = [Line { column: 7, ..Line::new(f_inline, 31) }, Line::new(f_hot, 22)];
    let l_hot = b.location(main, 0x5555_5555_6200, &lines).unwrap();
    let l_main = b.location(main, 0x5555_5555_6100, &[Line::new(f_main, 12)]).unwrap();
    let l_memcpy = b.location(libc, 0x7f00_0010_0000, &[]).unwrap();
    let thread = |name: &str, tid| [Label::text("comm", name), Label::number("tid", tid, "id")];
    b.add_sample(&[l_hot, l_main], &[7, 70_000_000], &thread("w1", 101)).unwrap();
    b.add_sample(&[l_memcpy, l_hot, l_main], &[3, 30_000_000], &thread("w1", 101)).unwrap();
    b.add_sample(&[l_hot, l_main], &[1, 10_000_000], &thread("w2", 102)).unwrap();
    b.finish()
}

/// The profile gzipped, as in files.
pub fn gz(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    pprof::write_gz(profile, &mut bytes).unwrap();
    bytes
}

/// Each sample as readable text: names leaf first, values, labels.
pub fn readable(p: &Profile) -> Vec<String> {
    let frame = |l: &pprof::LocationIndex| {
        let location = &p[*l];
        let names: Vec<&str> =
            location.lines.iter().filter_map(|l| Some(&*p[l.function?].name)).collect();
        if names.is_empty() { format!("{:#x}", location.address) } else { names.join("+") }
    };
    p.samples
        .iter()
        .map(|s| {
            let stack: Vec<String> = s.locations.iter().map(frame).collect();
            format!("{} {:?} {}", stack.join(";"), s.values, s.labels.len())
        })
        .collect()
}

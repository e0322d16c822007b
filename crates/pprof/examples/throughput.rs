//! Measures how fast large profiles are built, encoded and decoded: `throughput [SAMPLES]`.
//!
//! Run it in a release build. It prints wall time and peak resident size.

use std::time::Instant;

use pprof::{
    FunctionSpec, Label, Line, LocationIndex, MappingSpec, Profile, ProfileBuilder, ValueType,
};

fn main() {
    let samples = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(500_000);
    if let Some(file) = std::env::args().nth(2) {
        let bytes = std::fs::read(file).expect("the file can be read");
        let profile = timed("decode only", || pprof::decode(&bytes)).expect("it decodes");
        println!("{} samples", profile.samples.len());
        return;
    }
    let small = timed("build 100000 stacks", || build(100_000));
    drop(small);
    let profile = timed(&format!("build {samples} stacks"), || build(samples));
    let raw = timed("encode", || pprof::encode(&profile));
    let mut gz = Vec::new();
    timed("write_gz", || pprof::write_gz(&profile, &mut gz))
        .expect("writing to a vector cannot fail");
    println!("{} bytes, {} compressed", raw.len(), gz.len());
    let read = timed("decode raw", || pprof::decode(&raw)).expect("it was just written");
    let read_gz = timed("decode gz", || pprof::decode(&gz)).expect("it was just written");
    assert!(read == profile && read_gz == profile);
    let merged = timed("merge two", || pprof::merge([&read, &read_gz])).expect("they are equal");
    println!("{} samples merged", merged.samples.len());
    std::fs::write(std::env::temp_dir().join("throughput.pb.gz"), gz).expect("it can be written");
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = peak.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("VmHWM: ?").to_owned();
    println!("{what:24} {:8.1} ms   {peak}", begin.elapsed().as_secs_f64() * 1e3);
    result
}

/// Distinct stacks of 10 to 60 frames over 60000 locations of 20000 functions, on 64 threads.
fn build(samples: u64) -> Profile {
    let types = vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")];
    let mut b = ProfileBuilder::new(types);
    let file = "/usr/bin/worker";
    let spec = MappingSpec { start: 0x40_0000, limit: 0x140_0000, offset: 0, file, build_id: "ab" };
    let mapping = b.mapping(spec).expect("there is room");
    let locations: Vec<LocationIndex> = (0..60_000)
        .map(|i| {
            let name = format!("module{}::function{}", i / 3 % 100, i / 3);
            let spec =
                FunctionSpec { name: &name, system_name: &name, filename: "a.rs", start_line: 1 };
            let function = b.function(spec).expect("there is room");
            let lines = [Line::new(function, i)];
            b.location(mapping, 0x40_0000 + i as u64 * 16, &lines).expect("there is room")
        })
        .collect();
    let threads: Vec<[Label; 2]> = (0..64)
        .map(|i| [Label::text("comm", format!("worker{i}")), Label::number("tid", i, "id")])
        .collect();
    let mut random = 1_u64;
    let mut stack = Vec::new();
    for i in 0..samples {
        stack.clear();
        for _ in 0..10 + i % 51 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            stack.push(locations[(random >> 33) as usize % locations.len()]);
        }
        b.add_sample(&stack, &[1, 10_101_010], &threads[i as usize % 64]).expect("it fits");
    }
    b.finish()
}

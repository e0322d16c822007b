//! Generates profiles that use every feature of the format.

use pprof::{
    FunctionIndex, FunctionSpec, Label, Line, LocationIndex, MappingIndex, MappingSpec, Profile,
    ProfileBuilder, ValueType,
};

/// Pseudo-random numbers that are the same in each run.
pub struct Numbers(u64);

impl Numbers {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

const NAMES: [&str; 24] = [
    "main.main",
    "main.(*Server).Serve",
    "main.work[...]",
    "runtime.mallocgc",
    "runtime.goexit",
    "std::vector<int, std::allocator<int> >::push_back(int&&)",
    "(anonymous namespace)::helper(int)",
    "T::operator()(int) const",
    "größe::ändern",
    "日本語の関数名前テスト",
    "core::ops::function::FnOnce::call_once{{vtable.shim}}",
    "<alloc::vec::Vec<T> as Drop>::drop",
    "_start",
    "__libc_start_call_main",
    "do_syscall_64",
    "a",
    "a.b",
    "A",
    "with space and ; semicolon",
    "malloc",
    "operator new(unsigned long)",
    ".hidden",
    "zero",
    "tail",
];

const FILES: [&str; 6] = [
    "/src/main.go",
    "/proc/self/cwd/src/lib.rs",
    "../relative/./path//file.c",
    "",
    "/usr/include/c++/12/bits/stl_vector.h",
    "annotated.txt",
];

fn mappings(b: &mut ProfileBuilder) -> Vec<MappingIndex> {
    let specs = [
        ("/usr/bin/wörker", "0123456789abcdef"),
        ("/usr/lib/libc.so.6", ""),
        ("[vdso]", ""),
        ("", "ff"),
        ("http://localhost:6060/debug/pprof/profile", ""),
    ];
    let all = (0..).zip(specs).map(|(at, (file, build_id))| {
        let start = 0x40_0000 + at * 0x10_0000;
        let spec = MappingSpec { start, limit: start + 0x8_0000, offset: 0x1000, file, build_id };
        b.mapping(spec).unwrap()
    });
    all.collect()
}

/// The same functions for each profile. If functions with equal name and file started at different
/// lines, pprof would list a random part of their source.
fn functions(b: &mut ProfileBuilder) -> Vec<FunctionIndex> {
    let mut n = Numbers(99);
    let all = NAMES.iter().enumerate().map(|(at, name)| {
        let system_name = if at % 3 == 0 { format!("_Z{at}") } else { (*name).to_owned() };
        let filename = FILES[n.below(FILES.len() as u64) as usize];
        let start_line = if n.below(3) == 0 { 0 } else { 1 + n.below(40) as i64 };
        b.function(FunctionSpec { name, system_name: &system_name, filename, start_line }).unwrap()
    });
    all.collect()
}

fn locations(
    b: &mut ProfileBuilder,
    n: &mut Numbers,
    functions: &[FunctionIndex],
) -> Vec<LocationIndex> {
    let mappings = mappings(b);
    let mut all = Vec::new();
    for at in 0..120_u64 {
        let mapping = mappings[n.below(mappings.len() as u64) as usize];
        // One location in eight has no symbols, one in three has inlined calls.
        let depth = if at % 8 == 7 { 0 } else { 1 + n.below(3) * n.below(2) };
        let lines: Vec<Line> = (0..depth)
            .map(|_| {
                let function = functions[n.below(functions.len() as u64) as usize];
                let (line, column) = (n.below(45) as i64, n.below(3) as i64);
                Line { function: Some(function), line, column }
            })
            .collect();
        all.push(b.location(mapping, 0x40_0000 + at * 64, &lines).unwrap());
    }
    all
}

fn labels(n: &mut Numbers) -> Vec<Label> {
    let mut labels = Vec::new();
    if n.below(2) == 0 {
        labels.push(Label::text("comm", ["main", "wörker/1", "io"][n.below(3) as usize]));
    }
    if n.below(3) == 0 {
        labels.push(Label::number("bytes", 1 << n.below(24), "bytes"));
    }
    if n.below(4) == 0 {
        labels.push(Label::number("request", 16 << n.below(12), ""));
        labels.push(Label::number("latency", n.below(1 << 40) as i64, "nanoseconds"));
    }
    if n.below(8) == 0 {
        labels.push(Label::text("many", "one"));
        labels.push(Label::text("many", "two"));
        labels.push(Label::number("mixed", 7, ""));
        labels.push(Label::number("mixed", -8, "ms"));
    }
    labels
}

fn filled(mut b: ProfileBuilder, seed: u64, stacks: u64, values: &[u64]) -> Profile {
    let mut n = Numbers(seed);
    let functions = functions(&mut b);
    let locations = locations(&mut b, &mut n, &functions);
    for _ in 0..stacks {
        let depth = 1 + n.below(14);
        // Low numbers are more frequent, and a location may recur.
        let mut frame = || {
            let below = 1 + n.below(locations.len() as u64);
            locations[n.below(below) as usize]
        };
        let stack: Vec<LocationIndex> = (0..depth).map(|_| frame()).collect();
        let values: Vec<i64> = values.iter().map(|v| n.below(*v) as i64).collect();
        b.add_sample(&stack, &values, &labels(&mut n)).unwrap();
    }
    b.finish()
}

/// A CPU profile with a frame filter.
pub fn cpu(seed: u64) -> Profile {
    let types = vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")];
    let mut b = ProfileBuilder::new(types);
    b.set_period(ValueType::new("cpu", "nanoseconds"), 10_101_010)
        .set_time_nanos(1_700_000_000_123_456_789 + seed as i64)
        .set_duration_nanos(30_250_000_000)
        .set_doc_url("https://example.com/cpu")
        .set_frame_filter("mal.*|.*operator.*", "malloc")
        .comment("recorded by a test")
        .comment("#hidden");
    let mut profile = filled(b, seed, 400, &[50, 500_000_000]);
    profile.locations[5].is_folded = true;
    profile
}

/// The CPU profile without mappings, as old Go runtimes write it.
pub fn unmapped(seed: u64) -> Profile {
    let mut profile = cpu(seed);
    profile.mappings.clear();
    profile.locations.iter_mut().for_each(|l| l.mapping = None);
    profile
}

/// A heap profile whose default sample type is not the first.
pub fn heap(seed: u64) -> Profile {
    let types = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    let mut b = ProfileBuilder::new(types.map(|(k, u)| ValueType::new(k, u)).to_vec());
    b.set_period(ValueType::new("space", "bytes"), 524_288).set_default_sample_type("alloc_space");
    filled(b, seed, 150, &[1000, 1 << 32, 10, 1 << 20])
}

/// A profile with unknown units and without a header.
pub fn odd(seed: u64) -> Profile {
    let types = vec![ValueType::new("things", "widgets"), ValueType::new("", "GCU")];
    filled(ProfileBuilder::new(types), seed, 40, &[1 << 30, 90])
}

/// The CPU profile in milliseconds, with another type, in another order.
pub fn cpu_in_milliseconds(seed: u64) -> Profile {
    let types = [("cpu", "milliseconds"), ("extra", "count"), ("samples", "count")];
    let mut b = ProfileBuilder::new(types.map(|(k, u)| ValueType::new(k, u)).to_vec());
    b.set_period(ValueType::new("cpu", "nanoseconds"), 20_000_000)
        .set_time_nanos(1_600_000_000_000_000_000)
        .set_duration_nanos(90_000_000);
    filled(b, seed, 100, &[300, 9, 50])
}

/// A profile without samples.
pub fn empty() -> Profile {
    ProfileBuilder::new(vec![ValueType::new("samples", "count")]).finish()
}

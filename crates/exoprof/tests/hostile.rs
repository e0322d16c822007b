//! Checks that damaged and malicious files fail with a one-line error and bounded memory.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Kilobytes of address space that a report may use for small invalid files. At most 300 MB of it
/// are resident; the rest is slack of growing vectors.
const MEMORY_KB: u64 = 640 << 10;

#[track_caller]
fn rejects(name: &str, bytes: &[u8], reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let stderr = run(&["report".as_ref(), "--raw".as_ref(), &path]);
    assert!(stderr.contains(reason), "{name}: {stderr}");
}

/// Runs exoprof with at most [`MEMORY_KB`] and returns its one-line error.
#[track_caller]
fn run(args: &[&Path]) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY_KB}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_exoprof"))
        .args(args)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.len() < 1000, "{stderr}");
    stderr
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited protobuf field.
fn field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends a varint protobuf field.
fn number(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

const SAMPLE: u64 = 2;
const LOCATION: u64 = 4;
const FUNCTION: u64 = 5;
const STRING: u64 = 6;

/// A profile with one sample type and these fields.
fn profile(fields: &[(u64, Vec<u8>)], strings: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    field(1, &[8, 1, 16, 2], &mut out);
    fields.iter().for_each(|(n, bytes)| field(*n, bytes, &mut out));
    [b"".as_slice(), b"cpu", b"ns"].iter().chain(strings).for_each(|s| field(STRING, s, &mut out));
    out
}

fn message(fields: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(n, value)| number(*n, *value, &mut out));
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

#[test]
fn noise() {
    let mut seed = 42_u64;
    for length in [1, 2, 10, 1000, 100_000] {
        let noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u8
        };
        let bytes: Vec<u8> = std::iter::repeat_with(noise).take(length).collect();
        rejects("noise", &bytes, "");
        rejects("noise.gz", &gzip(&bytes), "");
    }
    rejects("zeros", &[0; 4096], "");
}

#[test]
fn damaged_gzip() {
    let whole = gzip(&profile(&[], &[]));
    rejects("cut", &whole[..whole.len() / 2], "truncated");
    let mut wrong = whole.clone();
    let at = wrong.len() - 6;
    wrong[at] ^= 0xff;
    rejects("checksum", &wrong, "gzip");
}

#[test]
fn bombs() {
    // 1 GiB of zeros in 1 MB; and gzip within gzip, of which only the outer layer is unpacked.
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    let zeros = vec![0; 1 << 24];
    for _ in 0..64 {
        gz.write_all(&zeros).unwrap();
    }
    let bomb = gz.finish().unwrap();
    rejects("bomb", &bomb, "exceeds the limit");
    rejects("layers", &gzip(&bomb), "");
}

#[test]
fn bombs_of_valid_records() {
    let table = |number: u64, entry: &[u8], count: usize| {
        let mut one = Vec::new();
        field(number, entry, &mut one);
        let entries = one.repeat(count);
        gzip(&[profile(&[], &[]), entries].concat())
    };
    // As many records as pass the limit on bytes, each of which takes more memory than bytes:
    // samples with one value, samples with labels, and functions. A frame is charged its maximum.
    let mut sample = message(&[(2, 1)]);
    rejects("samples", &table(SAMPLE, &sample, 24_000_000), "bytes of memory");
    (0..1000).for_each(|_| field(3, &[8, 1, 16, 2], &mut sample));
    rejects("labels", &table(SAMPLE, &sample, 14_000), "bytes of memory");
    rejects("functions", &table(FUNCTION, &[], 40_000_000), "bytes of memory");
    let mut frames = message(&[(2, 1)]);
    field(1, &[1; 90_000_000], &mut frames);
    rejects("frames", &table(SAMPLE, &frames, 1), "");
    // More records than that exceed the limit on uncompressed bytes.
    rejects("more", &table(SAMPLE, &message(&[(2, 1)]), 60_000_000), "uncompressed");
}

#[test]
fn many_strings() {
    let mut bytes = profile(&[], &[]);
    // 10 million empty strings, in 20 MB and in 20 kB.
    bytes.extend(std::iter::repeat_n([STRING as u8 * 8 + 2, 0], 10_000_000).flatten());
    rejects("strings", &bytes, "string table");
    rejects("strings.gz", &gzip(&bytes), "string table");
}

#[test]
fn invalid_utf8() {
    rejects("utf8", &profile(&[], &[b"\xff\xfe"]), "string_table[3] is not valid UTF-8");
}

#[test]
fn dangling_and_circular_references() {
    let location = |id| (LOCATION, message(&[(1, id)]));
    let sample = |id| (SAMPLE, message(&[(1, id), (2, 1)]));
    rejects("absent", &profile(&[sample(7)], &[]), "location");
    rejects("twice", &profile(&[location(7), location(7)], &[]), "7");
    rejects("zero", &profile(&[location(0)], &[]), "id 0");
    // A location whose line refers to a function that does not exist.
    let mut line = message(&[(1, u64::MAX)]);
    let mut circle = message(&[(1, u64::MAX)]);
    field(4, &line, &mut circle);
    rejects("circle", &profile(&[(LOCATION, circle)], &[]), "function");
    line.clear();
    rejects("name", &profile(&[(FUNCTION, message(&[(1, 1), (2, 99)]))], &[]), "string 99");
    rejects(
        "negative",
        &profile(&[(FUNCTION, message(&[(1, 1), (2, u64::MAX)]))], &[]),
        "string -1",
    );
}

#[test]
fn legacy_text_profiles() {
    for (name, text) in [
        ("heap", "heap profile: 1: 2 [3: 4] @ heap/1048576\n1: 2 [3: 4] @ 0x1 0x2\n"),
        ("growth", "heap profile: 1: 2 [3: 4] @ growthz\n"),
        ("contention", "--- contention:\ncycles/second=1000\n"),
        ("threads", "--- threadz 1 ---\n"),
        ("goroutine", "goroutine profile: total 1\n1 @ 0x1\n"),
    ] {
        rejects(name, text.as_bytes(), "not a pprof protobuf profile but");
    }
    // The old binary CPU profile consists of words; the first two are 0 and 3.
    let words: Vec<u8> = [0_u64, 3, 0, 10_000, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    rejects("cpu", &words, "");
}

#[test]
fn paths_that_are_not_files() {
    for path in ["/", "/dev/null", "/proc/self/mem", "/nonexistent"] {
        run(&["report".as_ref(), path.as_ref()]);
    }
}

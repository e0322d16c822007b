//! Checks that `go tool pprof` parses our text forms to the same profile.

#[allow(dead_code, reason = "this test uses a part of it")]
mod common;

use pprof::{
    FunctionSpec, Label, Line, LocationIndex, MappingSpec, Profile, ProfileBuilder, ValueType,
    kinds,
};
use report::legacy_text;

/// The start of the function at an address: a multiple of 0x1000, or unknown for 0x400500.
fn start(address: u64) -> Option<u64> {
    (address != 0x400500).then_some(address & !0xfff)
}

/// Stacks of call addresses with values and labels.
type Rows<'a> = &'a [(&'a [u64], &'a [i64], Vec<Label>)];

fn profile(types: &[(&str, &str)], period: (&str, &str, i64), rows: Rows<'_>) -> Profile {
    let types = types.iter().map(|(kind, unit)| ValueType::new(*kind, *unit)).collect();
    let mut b = ProfileBuilder::new(types);
    b.set_period(ValueType::new(period.0, period.1), period.2);
    let spec =
        MappingSpec { start: 0x400000, limit: 0x500000, file: "/bin/x", ..Default::default() };
    let mapping = b.mapping(spec).unwrap();
    for (stack, values, labels) in rows {
        let locations: Vec<LocationIndex> = stack
            .iter()
            .map(|address| {
                let name = format!("main.f{address:x}");
                let spec = FunctionSpec {
                    name: &name,
                    system_name: &name,
                    filename: "/src/main.go",
                    start_line: 1,
                };
                let function = b.function(spec).unwrap();
                b.location(mapping, *address, &[Line::new(function, 7)]).unwrap()
            })
            .collect();
        b.add_sample(&locations, values, labels).unwrap();
    }
    b.finish()
}

/// The samples that pprof reads from a text, as `values: addresses`, sorted.
fn read_back(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, text).unwrap();
    let output = common::pprof(folder.path(), &["-raw".into(), path.to_str().unwrap().to_string()]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{text}");
    let raw = String::from_utf8(output.stdout).unwrap();
    let (samples, locations) = raw.split_once("Locations\n").unwrap();
    let addresses: Vec<(String, String)> = locations
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let id = words.next()?.strip_suffix(':')?.to_string();
            Some((id, words.next()?.to_string()))
        })
        .collect();
    let address_of = |id: &str| addresses.iter().find(|(i, _)| i == id).unwrap().1.clone();
    let is_sample = |line: &&str| line.starts_with(' ') && line.contains(": ");
    let mut rows: Vec<String> = samples
        .lines()
        .skip_while(|l| !l.starts_with("Samples:"))
        .skip(2)
        .filter(is_sample)
        .filter_map(|line| {
            let (values, ids) = line.split_once(": ")?;
            values.split_whitespace().next()?.parse::<i64>().ok()?;
            let values: Vec<_> = values.split_whitespace().collect();
            let addresses: Vec<_> = ids.split_whitespace().map(address_of).collect();
            Some(format!("{}: {}", values.join(" "), addresses.join(" ")))
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn heap() {
    let types = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    // 3 allocated and 1 live sampled objects of 1024 bytes, scaled as Go does at a rate of 512 KiB.
    let rate = 512 * 1024;
    let scale = 1.0 / (1.0 - (-1024.0 / f64::from(rate)).exp());
    let (all, live) = ((3.0 * scale) as i64, (1.0 * scale) as i64);
    let (all_bytes, live_bytes) = ((3072.0 * scale) as i64, (1024.0 * scale) as i64);
    let stack: &[u64] = &[0x401010, 0x402000, 0x403000];
    let values: &[i64] = &[all, all_bytes, live, live_bytes];
    let size = vec![Label::number("bytes", 1024, "bytes")];
    let p = profile(&types, ("space", "bytes", rate.into()), &[(stack, values, size)]);
    let text = legacy_text(&p, &kinds::HEAP, &start).unwrap();
    assert!(text.starts_with("heap profile: 1: 1024 [3: 3072] @ heap/1048576\n"), "{text}");
    assert!(text.contains("\n1: 1024 [3: 3072] @ 0x401011 0x402001 0x403001\n"), "{text}");
    assert!(text.contains("#\t0x401010\tmain.f401010+0x10\t/src/main.go:7\n"), "{text}");
    let expected = format!("{all} {all_bytes} {live} {live_bytes}: 0x401010 0x402000 0x403000");
    assert_eq!(read_back(&text), [expected]);
}

#[test]
fn block_and_mutex() {
    let types = [("contentions", "count"), ("delay", "nanoseconds")];
    let rows: Rows<'_> = &[
        (&[0x401000, 0x403000], &[2, 1_000_000], vec![]),
        (&[0x402000, 0x403000], &[40, 200_000_000], vec![]),
    ];
    let p = profile(&types, ("contentions", "count", 1), rows);
    for (kind, head) in [
        (kinds::BLOCK, "--- contention:\ncycles/second=1000000000\n200000000 40 @"),
        (kinds::MUTEX, "--- mutex:\ncycles/second=1000000000\nsampling period=1\n200000000 40 @"),
    ] {
        let text = legacy_text(&p, &kind, &start).unwrap();
        assert!(text.starts_with(head), "{text}");
        let expected = ["2 1000000: 0x401000 0x403000", "40 200000000: 0x402000 0x403000"];
        assert_eq!(read_back(&text), expected);
    }
}

#[test]
fn counts() {
    let types = [("goroutine", "count")];
    let labels = vec![Label::text("b", "2\""), Label::text("a", "1"), Label::number("n", 1, "x")];
    let rows: Rows<'_> = &[
        (&[0x401000, 0x403000], &[1], vec![]),
        (&[0x402000, 0x403000], &[3], labels),
        (&[0x400500, 0x403000], &[1], vec![]),
    ];
    let p = profile(&types, ("goroutine", "count", 1), rows);
    let text = legacy_text(&p, &kinds::GOROUTINE, &start).unwrap();
    let expected = "goroutine profile: total 5\n\
        3 @ 0x402001 0x403001\n# labels: {\"a\":\"1\", \"b\":\"2\\\"\"}\n\
        #\t0x402000\tmain.f402000+0x0\t/src/main.go:7\n#\t0x403000\tmain.f403000+0x0\t/src/main.go:7\n\n\
        1 @ 0x400501 0x403001\n";
    assert!(text.starts_with(expected), "{text}");
    let expected = ["1: 0x400500 0x403000", "1: 0x401000 0x403000", "3: 0x402000 0x403000"];
    assert_eq!(read_back(&text), expected);
}

#[test]
fn cpu_has_no_text_form() {
    let types = [("samples", "count"), ("cpu", "nanoseconds")];
    let p = profile(&types, ("cpu", "nanoseconds", 10), &[(&[0x401000], &[1, 10], vec![])]);
    assert!(legacy_text(&p, &kinds::CPU, &start).is_err());
}

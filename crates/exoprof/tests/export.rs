//! Tests that exported speedscope and Firefox profiles follow the rules of their formats.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pprof::{FunctionSpec, Label, Line, MappingSpec, Profile, ProfileBuilder, ValueType};
use serde_json::Value;

/// A stack (root first), its thread and its value.
type Stack = (&'static str, &'static str, i64);

const STACKS: [Stack; 6] = [
    ("main;hot;spin", "worker", 600_400_000),
    ("main;cold", "io \"x\"", 250_000_000),
    ("main;cold;<b>&", "worker", 100_300_000),
    ("main;cold;[kernel]read", "worker", 49_700_000),
    ("main;hot;spin", "io \"x\"", 400_000),
    ("main;hot;spin", "worker", 300_000),
];

fn profile(unit: &str, stacks: &[Stack]) -> Profile {
    let mut b = ProfileBuilder::new(vec![ValueType::new("cpu", unit)]);
    b.set_period(ValueType::new("cpu", unit), 10_101_010);
    let spec = |start, file| MappingSpec { start, limit: start + 4096, file, ..Default::default() };
    let own = b.mapping(spec(0x1000, "/usr/bin/server")).unwrap();
    let kernel = b.mapping(spec(0x9000, "[kernel.kallsyms]")).unwrap();
    for (stack, thread, value) in stacks {
        let mut frames = Vec::new();
        for (name, at) in stack.split(';').zip(1..) {
            let (mapping, begin, name) = match name.strip_prefix("[kernel]") {
                Some(name) => (kernel, 0x9000, name),
                None => (own, 0x1000, name),
            };
            let filename = if begin == 0x1000 { "server.c" } else { "" };
            let spec = FunctionSpec { name, filename, ..Default::default() };
            let line = Line::new(b.function(spec).unwrap(), 7);
            frames.insert(0, b.location(mapping, begin + at, &[line]).unwrap());
        }
        let id = if *thread == "worker" { "12" } else { "13" };
        let labels = [("thread", *thread), ("thread_id", id), ("pid", "12"), ("process", "server")];
        let labels = labels.map(|(key, value)| Label::text(key, value));
        b.add_sample(&frames, &[*value], &labels).unwrap();
    }
    b.finish()
}

fn write(folder: &Path, profile: &Profile) -> PathBuf {
    let path = folder.join("profile.pb.gz");
    let mut bytes = Vec::new();
    pprof::write_gz(profile, &mut bytes).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn report(args: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exoprof"));
    command.arg("report").args(args).arg(file).output().expect("exoprof starts")
}

/// Exports a profile with `option` and returns the JSON.
#[track_caller]
fn exported(option: &str, more: &[&str], profile: &Profile) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), profile);
    let out = folder.path().join("out.json");
    let args = [&[option, out.to_str().unwrap(), "-q"], more].concat();
    let output = report(&args, &file);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(output.stdout.is_empty());
    serde_json::from_slice(&std::fs::read(&out).unwrap()).expect("JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

/// The weight of each stack of a speedscope profile, keyed by its frame names.
fn speedscope_stacks(file: &Value, profile: &Value) -> BTreeMap<String, i64> {
    let frames = list(&file["shared"]["frames"]);
    let (samples, weights) = (list(&profile["samples"]), list(&profile["weights"]));
    assert_eq!(samples.len(), weights.len());
    assert_eq!((&profile["type"], profile["startValue"].as_i64()), (&"sampled".into(), Some(0)));
    let sum: i64 = weights.iter().map(|w| w.as_i64().unwrap()).sum();
    assert_eq!(profile["endValue"].as_i64(), Some(sum));
    let name = |at: &Value| frames[at.as_u64().unwrap() as usize]["name"].as_str().unwrap();
    let stack = |sample: &Value| list(sample).iter().map(name).collect::<Vec<_>>().join(";");
    let weights = weights.iter().map(|w| w.as_i64().unwrap());
    let mut stacks = BTreeMap::new();
    for (stack, weight) in samples.iter().map(stack).zip(weights) {
        *stacks.entry(stack).or_default() += weight;
    }
    stacks
}

#[test]
fn speedscope() {
    let file = exported("--speedscope", &[], &profile("nanoseconds", &STACKS));
    assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
    assert_eq!(file["name"], "server cpu");
    let profiles = list(&file["profiles"]);
    let names: Vec<_> = profiles.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["server cpu", "server: worker (12)", "server: io \"x\" (13)"]);
    assert!(profiles.iter().all(|p| p["unit"] == "nanoseconds"));
    let all: i64 = speedscope_stacks(&file, &profiles[0]).values().sum();
    assert_eq!(all, STACKS.iter().map(|(.., value)| value).sum::<i64>());
    let worker = speedscope_stacks(&file, &profiles[1]);
    let expected = [
        ("main;cold;<b>&", 100_300_000),
        ("main;cold;read", 49_700_000),
        ("main;hot;spin", 600_700_000),
    ];
    assert_eq!(worker, expected.map(|(stack, ns)| (stack.to_owned(), ns)).into());
    let frames = list(&file["shared"]["frames"]);
    assert_eq!(frames.len(), 6, "each frame appears once: {frames:?}");
    let main = frames.iter().find(|f| f["name"] == "main").unwrap();
    assert_eq!(main["file"], "server.c");
}

#[test]
fn report_options_apply() {
    let profile = profile("nanoseconds", &STACKS);
    let file = exported("--speedscope", &["--focus=cold", "--lines"], &profile);
    let stacks = speedscope_stacks(&file, &list(&file["profiles"])[0]);
    assert!(stacks.keys().all(|s| s.contains("cold")) && stacks.len() == 3, "{stacks:?}");
    assert!(list(&file["shared"]["frames"]).iter().all(|f| f["line"] == 7));
}

#[test]
fn speedscope_rejects_negative_values() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), &profile("count", &[("a", "t", 3), ("b", "t", -3)]));
    let out = folder.path().join("out.json");
    let output = report(&["--speedscope", out.to_str().unwrap()], &file);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("speedscope cannot show negative values"), "{stderr}");
    assert!(!out.exists());
}

/// The weight of each stack of a thread of a Firefox profile, keyed by its frame names.
fn firefox_stacks(thread: &Value) -> BTreeMap<String, f64> {
    let at = |table: &str, column: &str, row: u64| {
        let column = list(&thread[table][column]);
        assert_eq!(Some(column.len() as u64), thread[table]["length"].as_u64(), "{table}");
        column[row as usize].clone()
    };
    let name = |frame: u64| {
        let function = at("frameTable", "func", frame).as_u64().unwrap();
        let name = at("funcTable", "name", function).as_u64().unwrap() as usize;
        list(&thread["stringArray"])[name].as_str().unwrap().to_owned()
    };
    let mut stacks = BTreeMap::new();
    for row in 0..thread["samples"]["length"].as_u64().unwrap() {
        let mut names = Vec::new();
        let mut stack = at("samples", "stack", row).as_u64();
        while let Some(number) = stack {
            names.insert(0, name(at("stackTable", "frame", number).as_u64().unwrap()));
            stack = at("stackTable", "prefix", number).as_u64();
        }
        let weight = at("samples", "weight", row).as_f64().unwrap();
        *stacks.entry(names.join(";")).or_default() += weight;
    }
    stacks
}

#[test]
fn firefox() {
    let file = exported("--firefox", &[], &profile("nanoseconds", &STACKS));
    let meta = &file["meta"];
    assert_eq!((&meta["product"], &meta["symbolicated"]), (&"server cpu".into(), &true.into()));
    assert!((meta["interval"].as_f64().unwrap() - 10.101_01).abs() < 1e-6, "{meta}");
    let threads = list(&file["threads"]);
    let names: Vec<_> = threads.iter().map(|t| t["name"].as_str().unwrap()).collect();
    // The main thread comes first, named after its process.
    assert_eq!(names, ["server", "io \"x\""]);
    assert!(threads.iter().all(|t| t["processName"] == "server" && t["pid"] == "12"));
    assert!(threads.iter().all(|t| t["samples"]["weightType"] == "tracing-ms"));
    // Rounding errors must not add up: the three stacks total 750.7 ms, their weights 751.
    let worker = firefox_stacks(&threads[0]);
    let expected = [("main;cold;<b>&", 100.0), ("main;cold;read", 50.0), ("main;hot;spin", 601.0)];
    assert_eq!(worker, expected.map(|(stack, ms)| (stack.to_owned(), ms)).into());
    let categories: Vec<_> = list(&meta["categories"]).iter().map(|c| &c["name"]).collect();
    assert_eq!(categories, ["Other", "User", "Kernel"]);
    let frames = list(&threads[0]["frameTable"]["category"]);
    let kernel = frames.iter().filter(|c| c.as_u64() == Some(2)).count();
    assert_eq!(kernel, 1, "{frames:?}");
    // The time axis is as long as the total.
    let deltas = list(&threads[0]["samples"]["timeDeltas"]);
    assert_eq!((deltas.len(), deltas[0].as_f64()), (3, Some(0.0)));
    assert!((deltas[1].as_f64().unwrap() - 600.7).abs() < 1e-6, "{deltas:?}");
}

#[test]
fn firefox_with_other_units_and_sizes() {
    let of = |unit: &str, values: [i64; 2]| {
        let stacks = [("a", "worker", values[0]), ("b", "worker", values[1])];
        let file = exported("--firefox", &[], &profile(unit, &stacks));
        let thread = &list(&file["threads"])[0];
        let kind = thread["samples"]["weightType"].as_str().unwrap().to_owned();
        let stacks: Vec<f64> = firefox_stacks(thread).into_values().collect();
        (kind, stacks, file["meta"]["product"].as_str().unwrap().to_owned())
    };
    let row = |kind: &str, a, b, title: &str| (kind.to_owned(), vec![a, b], title.to_owned());
    assert_eq!(of("bytes", [5, -7]), row("bytes", 5.0, -7.0, "server cpu"));
    assert_eq!(of("count", [5, 7]), row("samples", 5.0, 7.0, "server cpu"));
    let micro = "server cpu (1 sample = 1 us)";
    assert_eq!(of("nanoseconds", [5_000_000, 7_001_000]), row("samples", 5000.0, 7001.0, micro));
    let thousand = "server cpu (1 sample = 1000 bytes)";
    assert_eq!(of("bytes", [4_000_000_000, 3000]), row("samples", 4e6, 3.0, thousand));
}

#[test]
fn an_empty_profile() {
    let empty = profile("nanoseconds", &[]);
    let file = exported("--speedscope", &[], &empty);
    assert_eq!(list(&file["profiles"]).len(), 1);
    let file = exported("--firefox", &[], &empty);
    assert!(list(&file["threads"]).is_empty());
}

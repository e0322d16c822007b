//! Tests that `go tool pprof` reads recorded profiles and shows the expected results.

use exoprof_tests::expect::{SHARES, share_of_slices};
use exoprof_tests::gotool::{TopRow, pprof, top};
use exoprof_tests::programs;
use exoprof_tests::{Recording, Target, Truth, record_busy};

fn shares(more: &[&str]) -> (Recording, Truth) {
    let mut target = Target::working(programs::SHARES, &[]);
    let before = target.mark();
    let recording = record_busy(target.pid(), 3.0, &[&["-F", "997"], more].concat());
    let truth = target.mark().since(&before);
    (recording, truth)
}

#[test]
fn top_shows_the_shares() {
    // Interrupts are separate entries below the interrupted function. Without kernel frames, all
    // time in a function is flat, also on a busy machine.
    let find = |rows: &[TopRow], name: &str| {
        let found = rows.iter().find(|r| r.function == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} in {rows:#?}"))
    };
    // As in accuracy.rs, but of the whole total, which includes clocks and polling.
    let (recording, rows) = SHARES.check(|| {
        let (recording, truth) = shares(&["--no-kernel"]);
        let rows = top(&recording.path);
        let deviation = |site: &str| {
            let real = truth.share(site) * 100.0;
            share_of_slices(&recording.profile, site, find(&rows, site).cum, real)
        };
        (["heavy_a", "heavy_b", "heavy_c", "heavy_d"].map(deviation).into(), (recording, rows))
    });
    let row = |name: &str| find(&rows, name);
    // The kernel's interrupts are leafward of these functions: in cum, but not in flat.
    for site in ["heavy_a", "heavy_b", "heavy_c"] {
        assert!(row(site).flat > 0.8 * row(site).cum, "{site}: {:?}", row(site));
    }
    assert!(row("heavy_d").flat < 1.0 && row("leaf_of_d").flat > 2.0, "{rows:#?}");
    assert!(row("main").cum > 97.0, "{rows:#?}");
    // It shows CPU time by default, and samples on request.
    assert!(pprof(&["-top"], &recording.path).contains("Type: cpu"));
    assert!(pprof(&["-top", "-sample_index=samples"], &recording.path).contains("Type: samples"));
}

#[test]
fn raw_and_traces() {
    let (recording, _) = shares(&[]);
    let raw = pprof(&["-raw"], &recording.path);
    for word in [
        "PeriodType: cpu nanoseconds",
        "Period: 1003009",
        "samples/count cpu/nanoseconds",
        "Mappings",
        "heavy_a",
        "shares.c",
        "thread:[shares]",
    ] {
        assert!(raw.contains(word), "no {word:?} in:\n{}", &raw[..raw.len().min(4000)]);
    }
    // The main binary is the first mapping.
    let mappings = raw.split("Mappings\n").nth(1).unwrap();
    assert!(mappings.lines().next().unwrap().contains("shares"), "{mappings}");
    // -traces prints stacks leaf first, with a blank column before each caller.
    let traces = pprof(&["-traces"], &recording.path);
    let is_chain = |block: &&str| {
        let lines: Vec<_> =
            block.lines().filter_map(|line| line.split_whitespace().last()).collect();
        lines.windows(3).any(|w| w == ["leaf_of_d", "heavy_d", "truth_slice"])
            || lines.windows(2).any(|w| w == ["leaf_of_d", "heavy_d"])
    };
    assert!(traces.split("-----------+").any(|block| is_chain(&block)), "{traces}");
}

#[test]
fn list_shows_source_lines() {
    let (recording, _) = shares(&[]);
    let list = pprof(&["-list", "^heavy_b$"], &recording.path);
    assert!(list.contains("ROUTINE ======================== heavy_b"), "{list}");
    let hot = list.lines().find(|line| line.contains("3935559000370003845"));
    let hot = hot.unwrap_or_else(|| panic!("the loop's line is not listed: {list}"));
    assert!(hot.trim_start().starts_with(|c: char| c.is_ascii_digit()), "no time on {hot:?}");
}

/// The profile is fully symbolized: without local symbols pprof shows the same.
#[test]
fn symbolized_without_local_files() {
    let (recording, _) = shares(&[]);
    let with = pprof(&["-top", "-nodecount=5"], &recording.path);
    let without = pprof(&["-top", "-nodecount=5", "-symbolize=none"], &recording.path);
    assert_eq!(with, without);
}

#[test]
fn tags_hold_the_labels() {
    let mut target = Target::spawn(programs::THREADS, &["fixed", "4"]);
    target.go(20_000);
    let recording = record_busy(target.pid(), 2.0, &["-F", "499"]);
    let tags = pprof(&["-tags"], &recording.path);
    assert!(tags.contains("thread:") && tags.contains("thread_id:"), "{tags}");
    assert!((0..4).all(|k| tags.contains(&format!("worker-{k}"))), "{tags}");
}

/// Two recordings of one program have the same types and mappings, so they can be merged.
#[test]
fn recordings_merge() {
    let target = Target::working(programs::SHARES, &[]);
    let one = record_busy(target.pid(), 1.0, &["-F", "499"]);
    let two = record_busy(target.pid(), 1.0, &["-F", "499"]);
    let merged = pprof(&["-top", one.path.to_str().unwrap()], &two.path);
    assert!(merged.contains("heavy_a"), "{merged}");
}

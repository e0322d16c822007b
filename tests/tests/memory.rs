//! Tests that exoprof's memory use is bounded: it keeps aggregated stacks, not raw samples.

use exoprof_tests::programs;
use exoprof_tests::{Target, record_busy};

const MIB: u64 = 1024;

#[test]
fn a_thousand_threads() {
    let mut target = Target::spawn(programs::THREADS, &["many", "1000"]);
    target.go(120_000);
    let recording = record_busy(target.pid(), 8.0, &["-F", "997"]);
    let used = recording.max_rss_kib;
    assert!(recording.profile.total("samples") > 2000, "{}", recording.stderr);
    assert!(used < 200 * MIB, "{} MiB", used / MIB);
}

#[test]
fn a_normal_run() {
    let target = Target::working(programs::SHARES, &[]);
    let recording = record_busy(target.pid(), 3.0, &["-F", "997"]);
    let used = recording.max_rss_kib;
    assert!(recording.profile.total("samples") > 1000, "{}", recording.stderr);
    assert!(used < 60 * MIB, "{} MiB", used / MIB);
}

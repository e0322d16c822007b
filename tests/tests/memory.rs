//! The profiler's own memory is bounded: it keeps aggregated stacks, not raw samples.

use exoprof_tests::programs;
use exoprof_tests::{Recorder, Target};

const MIB: u64 = 1024;

#[test]
fn a_thousand_threads() {
    let mut target = Target::spawn(programs::THREADS, &["many", "1000"]);
    target.go(120_000);
    let outcome = Recorder::of(target.pid()).args(["-d", "5s", "-F", "997"]).run();
    let used = outcome.max_rss_kib;
    let recording = outcome.recording();
    assert!(recording.profile.total("samples") > 2000, "{}", recording.stderr);
    assert!(used < 200 * MIB, "{} MiB", used / MIB);
}

#[test]
fn a_normal_run() {
    let target = Target::working(programs::SHARES, &[]);
    let outcome = Recorder::of(target.pid()).args(["-d", "3s", "-F", "997"]).run();
    let used = outcome.max_rss_kib;
    let recording = outcome.recording();
    assert!(recording.profile.total("samples") > 1000, "{}", recording.stderr);
    assert!(used < 60 * MIB, "{} MiB", used / MIB);
}

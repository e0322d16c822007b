//! Tests of sample labels and profile comments.

use std::collections::BTreeSet;

use exoprof_tests::programs;
use exoprof_tests::{Recorder, Sample, Target, procfs, record_busy};
use nix::sys::signal::Signal;

#[test]
fn threads_have_names_and_ids() {
    let mut target = Target::spawn(programs::THREADS, &["fixed", "4"]);
    target.go(20_000);
    let ids: BTreeSet<_> = procfs::threads(target.pid()).iter().map(u32::to_string).collect();
    let recording = record_busy(target.pid(), 2.0, &["-F", "997"]);
    for sample in &recording.profile.samples {
        assert!(ids.contains(sample.label("thread_id")), "{:?}", sample.labels);
        let burns = |k: &usize| sample.has(&format!("burn_{k}"));
        // burn_K runs in the thread that is named worker-K.
        if let Some(k) = (0..4).find(burns) {
            assert_eq!(sample.label("thread"), format!("worker-{k}"), "{sample}");
        }
    }
    let names = recording.profile.by_label("cpu", "thread");
    assert!((0..4).all(|k| names.contains_key(&format!("worker-{k}"))), "{names:?}");
}

/// A thread that changes its name keeps one ID, and each label is a name it had.
#[test]
fn threads_that_change_their_names() {
    let mut target = Target::spawn(programs::THREADS, &["rename", "2"]);
    let mut running = Recorder::of(target.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    target.go(1000);
    target.wait_done();
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    for k in 0..2 {
        let burns = |s: &&Sample| s.has(&format!("burn_{k}"));
        let of_thread: Vec<_> = profile.samples.iter().filter(burns).collect();
        let ids: BTreeSet<_> = of_thread.iter().map(|s| s.label("thread_id")).collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        let names: BTreeSet<_> = of_thread.iter().map(|s| s.label("thread")).collect();
        let had = [format!("worker-{k}"), format!("renamed-{k}")];
        assert!(!names.is_empty() && names.iter().all(|n| had.iter().any(|h| h == n)), "{names:?}");
    }
}

#[test]
fn labels_are_of_one_type_and_not_reserved() {
    let target = Target::working(programs::SHARES, &[]);
    let recording = record_busy(target.pid(), 1.0, &["-F", "499"]);
    for sample in &recording.profile.samples {
        assert_eq!(sample.label("thread"), "shares");
        assert_eq!(sample.label("thread_id"), target.pid().to_string());
        assert!(sample.labels.keys().all(|k| !k.starts_with("pprof::")), "{:?}", sample.labels);
    }
}

#[test]
fn comments_describe_the_recording() {
    let target = Target::working(programs::SHARES, &[]);
    let recording = record_busy(target.pid(), 1.0, &["-F", "499"]);
    let comments = recording.profile.comments.join("\n");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let pid = target.pid().to_string();
    for word in [version, "record", "-F 499", &pid, kernel.trim(), "perf", "lost", "truncated"] {
        assert!(comments.contains(word), "no {word} in {comments}");
    }
    let kept = recording.profile.total("samples").to_string();
    let is_kept = |line: &str| line.contains("kept") && line.contains(&kept);
    assert!(comments.lines().any(is_kept), "{kept} kept: {comments}");
    // pprof hides comments that begin with '#'.
    assert!(recording.profile.comments.iter().all(|c| !c.starts_with('#')), "{comments}");
}

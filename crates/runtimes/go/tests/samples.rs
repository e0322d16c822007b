//! Compares heap, block, mutex and thread records with the program's own profiles.

mod common;

use common::{BUILDS, Build, Target, for_each_version};
use goruntime::{Contention, HeapView};
use image::Avma;

/// The records of a `debug=1` profile as (numbers, return addresses), sorted.
fn records(text: &str) -> Vec<(Vec<i64>, Vec<u64>)> {
    let number = |c: char| !c.is_ascii_digit();
    let record = |line: &str| {
        let (numbers, stack) = line.split_once(" @")?;
        if !numbers.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let numbers = numbers.split(number).filter_map(|n| n.parse().ok()).collect();
        let hex = |w: &str| u64::from_str_radix(w.strip_prefix("0x")?, 16).ok();
        Some((numbers, stack.split_whitespace().filter_map(hex).collect()))
    };
    let mut all: Vec<_> = text.lines().filter_map(record).collect();
    all.sort();
    all
}

fn heap(target: &Target, view: HeapView) -> Vec<(Vec<i64>, Vec<u64>)> {
    let profile = target.runtime.heap_profile(&target.memory, view).expect("a heap profile");
    assert!(!profile.unsettled && profile.implausible == 0);
    assert_eq!(profile.rate, 512 << 10);
    let mut all: Vec<_> = profile
        .records
        .iter()
        .map(|r| {
            let (used, size, allocated) = (r.in_use(), r.object_size, r.allocated);
            let numbers = [used, used * size, allocated, allocated * size];
            let stack = r.stack.iter().map(|pc| pc.0).collect();
            (numbers.map(u64::cast_signed).to_vec(), stack)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn heap_records_match_the_program() {
    for_each_version(|version| {
        for how in BUILDS {
            let mut target = Target::start(version, "truth", how);
            target.ask("alloc 20");
            let live = heap(&target, HeapView::Live);
            let sum = |all: &[(Vec<i64>, Vec<u64>)]| all.iter().map(|r| r.0[2]).sum::<i64>();
            assert!(sum(&live) >= 30, "{version} {how:?}: 40 MiB are about 70 samples");
            target.ask("gc");
            let mut theirs = records(&target.ask("heap 1"));
            let mut ours = heap(&target, HeapView::Published);
            // The dump's own allocations may already have a bucket, but no published count.
            ours.retain(|(numbers, _)| numbers[2] != 0);
            theirs.retain(|(numbers, _)| numbers[2] != 0);
            // Both stacks that allocated 20 MiB are sampled. Those of small objects may not be.
            assert!(ours.len() >= 2, "{version} {how:?}: {ours:?}");
            assert_eq!(ours, theirs, "{version} {how:?}");
        }
    });
}

fn contention(target: &Target, profile: &Contention, block: bool) -> Vec<(Vec<i64>, Vec<u64>)> {
    assert_eq!(profile.implausible, 0);
    let mut all: Vec<_> = profile
        .records
        .iter()
        .map(|r| {
            let count = (r.count as i64).max(i64::from(block));
            let frames = target.runtime.recorded_frames(&r.stack);
            (vec![r.ticks, count], frames.iter().map(|f| f.pc.0 + 1).collect())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn block_and_mutex_records_match_the_program() {
    for_each_version(|version| {
        for how in BUILDS {
            let mut target = Target::start(version, "truth", how);
            target.ask("contend 10");
            let theirs = records(&target.ask("block 1"));
            let profile = target.runtime.block_profile(&target.memory).expect("a block profile");
            assert_eq!(contention(&target, &profile, true), theirs, "{version} {how:?} block");
            let at = |name: &str| {
                let is = |pc: &[Avma]| {
                    target.runtime.recorded_frames(pc).iter().any(|f| f.function == name)
                };
                profile.records.iter().filter(|r| is(&r.stack)).map(|r| r.count).sum::<f64>()
            };
            assert_eq!(at("main.waitChannel"), 10.0, "{version} {how:?}");

            let theirs = records(&target.ask("mutex 1"));
            let profile = target.runtime.mutex_profile(&target.memory).expect("a mutex profile");
            let ours = contention(&target, &profile, false);
            assert!(!ours.is_empty(), "{version} {how:?}");
            assert_eq!(ours, theirs, "{version} {how:?} mutex");
        }
    });
}

#[test]
fn threads_match_the_program() {
    for_each_version(|version| {
        for how in BUILDS {
            let mut target = Target::start(version, "truth", how);
            // A thread may start at any moment, so repeat until the threads before and after are
            // equal.
            let read = |t: &Target| t.runtime.threads(&t.memory).expect("threads");
            let mut attempts =
                (0..20).map(|_| (read(&target), target.ask("threadcreate 1"), read(&target)));
            let (threads, theirs, _) =
                attempts.find(|(a, _, b)| a == b).expect("an unchanged list of threads");
            let total = theirs.lines().next().and_then(|l| l.rsplit(' ').next()?.parse().ok());
            assert_eq!(Some(threads.len()), total, "{version} {how:?}: {theirs}");
            for t in threads.iter().filter(|t| t.tid != 0) {
                let task = format!("/proc/{}/task/{}", target.pid(), t.tid);
                assert!(std::path::Path::new(&task).exists(), "{version} {how:?}: {task}");
            }
            let mut ours = std::collections::BTreeMap::<Vec<u64>, i64>::new();
            for t in &threads {
                *ours.entry(t.stack.iter().map(|pc| pc.0).collect()).or_default() += 1;
            }
            let mut expected = std::collections::BTreeMap::<Vec<u64>, i64>::new();
            for (numbers, stack) in records(&theirs) {
                let used: Vec<u64> = stack.into_iter().take_while(|pc| *pc != 0).collect();
                *expected.entry(used).or_default() += numbers[0];
            }
            assert_eq!(ours, expected, "{version} {how:?}");
        }
    });
}

#[test]
fn rates_match_the_program() {
    for_each_version(|version| {
        let mut target = Target::start(version, "truth", Build::StrippedPieCgo);
        let rates = target.runtime.rates(&target.memory).expect("rates");
        assert_eq!(format!("{} {}\n", rates.heap, rates.mutex), target.ask("rates"), "{version}");
        assert_eq!(rates.block, 0);
    });
}

//! Enables sampling in a Go program that imports no profiling package.

mod common;

use common::{Build, Target, build, for_each_version, installed};
use goruntime::{HeapView, Patch};

fn set_heap_rate(target: &Target, rate: u64, mut seed: u64) -> Patch {
    target.while_stopped(|| {
        let (runtime, memory) = (&target.runtime, &target.memory);
        let permit = runtime.heap_rate_permit(memory).expect("a permit");
        let mut uniform = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((seed >> 11) as f64 + 1.0) / (1u64 << 53) as f64
        };
        let reset = runtime.reset_caches(memory, rate, &mut uniform).expect("a reset");
        let patch = permit.patch(rate);
        memory.write(&patch);
        reset.patches.iter().for_each(|p| memory.write(p));
        patch
    })
}

#[test]
fn heap_sampling_works_in_a_program_without_profiling() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Stripped] {
            let mut target = Target::start(version, "plain", how);
            let profile = |t: &Target, view| t.runtime.heap_profile(&t.memory, view).expect("one");
            assert_eq!(profile(&target, HeapView::Live).rate, 0, "{version} {how:?}");
            let patch = set_heap_rate(&target, 16 << 10, 1);
            target.ask("keep 64");
            target.ask("drop 512");
            target.ask("gc");
            let heap = profile(&target, HeapView::Published);
            assert_eq!((heap.rate, heap.unsettled, heap.implausible), (16 << 10, false, 0));
            let mib = |function: &str, in_use: bool| {
                let records = heap.records.iter().filter(|r| {
                    target.runtime.recorded_frames(&r.stack).iter().any(|f| f.function == function)
                });
                let bytes = records.map(|r| {
                    let count = if in_use { r.in_use() } else { r.allocated };
                    goruntime::scale_heap_sample(count, r.object_size, heap.rate).1
                });
                bytes.sum::<u64>() as f64 / f64::from(1 << 20)
            };
            // 4,096 objects, each sampled with probability 1−1/e, have a standard deviation of
            // 1.2 %, so 5 % is four of them. A wrong reset or scale causes a far larger error.
            let kept = mib("main.keep", true);
            assert!((kept - 64.0).abs() < 3.2, "{version} {how:?}: 64 MiB kept, not {kept}");
            let dropped = (mib("main.drop", false), mib("main.drop", true));
            assert!((dropped.0 - 512.0).abs() < 25.6, "{version} {how:?}: {dropped:?}");
            assert!(dropped.1 <= 0.1, "{version} {how:?}: {dropped:?}");
            target.memory.write(&patch.undo());
            assert_eq!(profile(&target, HeapView::Live).rate, 0);
        }
    });
}

#[test]
fn contention_profiles_work_in_a_program_without_profiling() {
    for_each_version(|version| {
        for how in [Build::Plain, Build::Stripped] {
            let mut target = Target::start(version, "plain", how);
            let (block, mutex) = (
                target.runtime.block_rate_permit(&target.memory).expect("a permit").patch(1),
                target.runtime.mutex_rate_permit(&target.memory).expect("a permit").patch(1),
            );
            target.memory.write(&block);
            target.memory.write(&mutex);
            target.ask("contend 5");
            let before = (
                target.runtime.block_profile(&target.memory).expect("a profile"),
                target.runtime.mutex_profile(&target.memory).expect("a profile"),
            );
            target.ask("contend 40");
            let after = (
                target.runtime.block_profile(&target.memory).expect("a profile").since(&before.0),
                target.runtime.mutex_profile(&target.memory).expect("a profile").since(&before.1),
            );
            let count = |profile: &goruntime::Contention, functions: &[&str]| {
                let has = |names: &[String], f: &str| names.iter().any(|n| n == f);
                let records = profile.records.iter().filter(|r| {
                    let frames = target.runtime.recorded_frames(&r.stack);
                    let names: Vec<_> = frames.iter().map(|f| f.function.to_string()).collect();
                    functions.iter().all(|f| has(&names, f))
                });
                records.map(|r| r.count).sum::<f64>()
            };
            let what = format!("{version} {how:?}");
            assert_eq!(count(&after.0, &["main.waitChannel"]), 40.0, "{what}");
            let locks = ["main.waitMutex", "sync.(*Mutex).Lock"];
            assert_eq!(count(&after.0, &locks), 40.0, "{what}");
            let unlocks = ["main.waitMutex.func1", "sync.(*Mutex).Unlock"];
            assert_eq!(count(&after.1, &unlocks), 40.0, "{what}");
            target.memory.write(&block.undo());
            target.memory.write(&mutex.undo());
            let rates = target.runtime.rates(&target.memory).expect("rates");
            assert_eq!((rates.block, rates.mutex), (0, 0), "{what}");
        }
    });
}

/// 512 MiB at one sample per 112 MiB give 4.6 samples, so six runs give 27 ± 5. Without the reset,
/// each of the eight caches would immediately add a sample: 75 ± 5.
#[test]
fn reset_caches_add_no_samples() {
    for version in installed(&["1.21.13", "1.24.11", "1.27.3"]) {
        let path = build(version, "plain", Build::Stripped);
        let mut samples = 0;
        for run in 0..6 {
            let mut target = Target::run(&path, &[("GOMAXPROCS", "8")]);
            // Use all eight processors, so that their caches exist.
            target.ask("spread 1");
            set_heap_rate(&target, 0x700_0000, run * 1_000_003 + 7);
            target.ask("spread 64");
            let heap = target.runtime.heap_profile(&target.memory, HeapView::Live);
            samples += heap.expect("a profile").records.iter().map(|r| r.allocated).sum::<u64>();
        }
        assert!((5..=48).contains(&samples), "{version}: {samples} samples");
        eprintln!("{version}: {samples} samples in six runs");
    }
}

//! Compares goroutines read from outside with the program's own profiles and dumps.

mod common;

use common::{BUILDS, Build, Target, assert_same_text, for_each_version};
use goruntime::{Goroutine, GoroutineList, Status, format_goroutines, format_goroutines_grouped};

fn list(target: &Target, arguments: bool) -> GoroutineList {
    let mut reader = target.runtime.goroutine_reader(&target.memory, arguments);
    let list = reader.list().expect("goroutines");
    assert!(list.unsettled.is_empty() && list.unreadable == 0, "the program is idle: {list:?}");
    list
}

/// All goroutines except the main one, which executes commands and is busy while it dumps.
fn others(list: GoroutineList) -> Vec<Goroutine> {
    list.goroutines.into_iter().filter(|g| g.id != 1).collect()
}

/// Splits a dump and removes the goroutine that dumps: its stack contains `main.run`.
fn without_dumper(text: &str, separator: &str) -> Vec<String> {
    text.split(separator)
        .map(|r| r.trim_end().to_owned())
        .filter(|r| !r.is_empty() && !r.contains("main.run+") && !r.contains("\nmain.run("))
        .collect()
}

#[test]
fn grouped_goroutines_match_debug_1() {
    for_each_version(|version| {
        for how in BUILDS {
            let mut target = Target::start(version, "truth", how);
            target.ask("many 50");
            if how.has_cgo() {
                target.ask("cgo");
            }
            let theirs = target.ask("goroutine 1");
            let all = others(list(&target, false));
            let ours = format_goroutines_grouped(
                &target.runtime,
                &all,
                "goroutine",
                target.runtime.profile_depth(),
            );
            let records = |text: &str| {
                let (_total, rest) = text.split_once('\n').expect("a header");
                without_dumper(rest, "\n\n").join("\n\n")
            };
            assert_same_text(&records(&ours), &records(&theirs), &format!("{version} {how:?}"));
            assert!(ours.contains("# labels: {"), "{version} {how:?}: labels");
        }
    });
}

#[test]
fn dumped_goroutines_match_debug_2() {
    for_each_version(|version| {
        for how in BUILDS {
            let mut target = Target::start(version, "truth", how);
            if how.has_cgo() {
                target.ask("cgo");
            }
            let theirs = target.ask("goroutine 2");
            let all = others(list(&target, true));
            let ours = format_goroutines(&target.runtime, &all, 0);
            // Go prints wait times in minutes, and none of these goroutines has waited that long.
            let (ours, theirs) = (without_dumper(&ours, "\n\n"), without_dumper(&theirs, "\n\n"));
            assert!(ours.len() > 40, "{version} {how:?}: only {} goroutines", ours.len());
            assert_same_text(
                &ours.join("\n\n"),
                &theirs.join("\n\n"),
                &format!("{version} {how:?}"),
            );
        }
    });
}

#[test]
fn wait_reasons_ids_labels_and_statuses_are_read() {
    for_each_version(|version| {
        let target = Target::start(version, "truth", Build::Stripped);
        let all = list(&target, false);
        let by_reason = |reason: &str| {
            all.goroutines.iter().filter(|g| g.wait_reason.as_deref() == Some(reason)).count()
        };
        for (reason, least) in [
            ("chan receive", 20),
            ("chan send", 1),
            ("chan receive (nil chan)", 1),
            ("select", 1),
            ("select (no cases)", 1),
            ("sleep", 1),
            ("sync.Cond.Wait", 1),
            ("IO wait", 2),
        ] {
            assert!(by_reason(reason) >= least, "{version}: {reason}: {}", by_reason(reason));
        }
        let mut ids: Vec<u64> = all.goroutines.iter().map(|g| g.id).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "{version}: goroutine ids are unique");
        assert!(all.goroutines.iter().any(|g| g.locked_to_thread), "{version}");
        let calls = all.goroutines.iter().filter(|g| g.status == Status::Syscall).count();
        assert!(calls >= 2, "{version}: main and one other are in system calls");
        let labelled = all.goroutines.iter().find(|g| g.labels.len() == 12).expect("12 labels");
        assert!(!labelled.labels_incomplete);
        assert_eq!(labelled.labels[3], ("keyd".into(), "value \"quoted\" é".into()), "{version}");
        assert!(all.goroutines.iter().any(|g| g.system), "{version}: system goroutines");
    });
}

/// On request, Go 1.27 detects goroutines that nothing can wake.
#[test]
fn leaked_goroutines_match_the_leak_profile() {
    let mut target = Target::start("1.27.3", "truth", Build::Stripped);
    let theirs = target.ask("goroutineleak 1");
    let leaked: Vec<Goroutine> =
        others(list(&target, false)).into_iter().filter(|g| g.status == Status::Leaked).collect();
    assert!(leaked.len() > 20, "{} leaked", leaked.len());
    let depth = target.runtime.profile_depth();
    let ours = format_goroutines_grouped(&target.runtime, &leaked, "goroutineleak", depth);
    assert_same_text(&ours, &theirs, "leaked");
    let theirs = target.ask("goroutine 2");
    let ours = format_goroutines(&target.runtime, &others(list(&target, true)), 0);
    let (ours, theirs) = (without_dumper(&ours, "\n\n"), without_dumper(&theirs, "\n\n"));
    assert_same_text(&ours.join("\n\n"), &theirs.join("\n\n"), "with leaked ones");
    assert!(ours.iter().any(|g| g.contains(" (leaked)]:")));
}

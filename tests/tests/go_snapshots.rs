//! Compares what exoprof reads of a Go program's runtime from outside with the program's own
//! profiles from runtime/pprof, record by record, in every version and build.

use std::collections::BTreeMap;

use exoprof_tests::gotarget::{BUILDS, Build, GoTarget, LAST, for_each_version};
use exoprof_tests::recorder::exoprof;
use exoprof_tests::records::{Record, assert_same, records};
use exoprof_tests::{Profile, Recording, record};

/// Frames in runtime/pprof's goroutine and heap profiles: runtime.profstackdepth, or the limit of
/// earlier versions.
fn depth(version: &str) -> usize {
    if ["1.21.13", "1.22.10"].contains(&version) { 32 } else { 128 }
}

/// Drops the goroutine that writes the program's own profile: it is elsewhere when exoprof reads.
fn without_dumper(mut all: BTreeMap<Record, Vec<i64>>) -> BTreeMap<Record, Vec<i64>> {
    all.retain(|(stack, _), _| !stack.iter().any(|f| f.starts_with("main.main ")));
    all
}

fn snapshot(target: &GoTarget, kind: &str) -> Recording {
    // A snapshot does not wait for the duration.
    let began = std::time::Instant::now();
    let recording = record(target.pid(), &[kind, "-d", "10m"]);
    assert!(began.elapsed().as_secs() < 300, "{kind} waited for the end of its duration");
    recording
}

#[test]
fn goroutines_match_the_programs_own_profile() {
    for_each_version(|version| {
        for how in BUILDS {
            let what = format!("{version} {how:?}");
            let mut target = GoTarget::start(version, "truth", how);
            target.ask("many 50");
            if matches!(how, Build::Cgo | Build::StrippedPieCgo) {
                target.ask("cgo");
            }
            let theirs = target.own_profile("goroutine");
            let recording = snapshot(&target, "goroutine");
            let ours = &recording.profile;
            assert_eq!(ours.sample_types, ["goroutine/count"], "{what}");
            assert_eq!((&*ours.period_type, ours.period), ("goroutine/count", 1), "{what}");
            assert_eq!(ours.total("goroutine"), theirs.total("goroutine"), "{what}");
            assert!(ours.mappings[0].file.contains("truth-"), "{what}: {:?}", ours.mappings[0]);
            let depth = depth(version);
            let (ours, theirs) = (records(ours, depth), records(&theirs, depth));
            assert!(theirs.keys().any(|(_, labels)| labels.contains("/users")), "{what}");
            assert_same(&without_dumper(ours), &without_dumper(theirs), &what);
        }
    });
}

#[test]
fn heap_and_allocs_match_the_programs_own_profiles() {
    for_each_version(|version| {
        for how in BUILDS {
            let what = format!("{version} {how:?}");
            let mut target = GoTarget::start(version, "truth", how);
            target.ask("alloc 20");
            target.ask("gc");
            for (kind, default) in [("heap", ""), ("allocs", "alloc_space")] {
                let theirs = target.own_profile(kind);
                let ours = snapshot(&target, kind);
                let types = [
                    "alloc_objects/count",
                    "alloc_space/bytes",
                    "inuse_objects/count",
                    "inuse_space/bytes",
                ];
                assert_eq!(ours.profile.sample_types, types, "{what}");
                assert_eq!(ours.profile.default_sample_type, default, "{what}");
                assert_eq!(ours.profile.period_type, "space/bytes", "{what}");
                assert_eq!(ours.profile.period, theirs.period, "{what}");
                let (ours, theirs) = (records(&ours.profile, 128), records(&theirs, 128));
                assert!(ours.len() >= 2, "{what}: {ours:?}");
                assert_same(&ours, &theirs, &what);
            }
            // The same with the option that changes nothing.
            let recording = record(target.pid(), &["heap", "--heap-history"]);
            assert!(recording.profile.total("alloc_space") > 20 << 20, "{what}");
        }
    });
}

#[test]
fn threads_match_the_programs_own_profile() {
    for_each_version(|version| {
        let mut target = GoTarget::start(version, "truth", Build::StrippedPieCgo);
        // A thread may start at any moment, so both numbers must be equal.
        let (ours, theirs) = (0..20)
            .map(|_| (target.own_profile("threadcreate"), snapshot(&target, "threadcreate")))
            .find(|(t, o)| t.total("threadcreate") == o.profile.total("threadcreate"))
            .map(|(t, o)| (o, t))
            .expect("the number of threads stays the same once");
        assert_eq!(ours.profile.sample_types, ["threadcreate/count"]);
        let stacks = |p: &Profile, marker: &str| {
            let mut all = records(p, 128);
            // Where Go recorded no stack, it writes a sample without frames, or in some versions
            // one with frames of address 0; those versions also append such frames to every other
            // stack.
            all.retain(|(stack, _), _| {
                stack.first().is_some_and(|f| !f.starts_with(marker) && !f.starts_with(' '))
            });
            let used = |((mut stack, labels), values): (Record, Vec<i64>)| {
                stack.retain(|f| !f.starts_with(' '));
                ((stack, labels), values)
            };
            all.into_iter().map(used).collect::<BTreeMap<_, _>>()
        };
        let none = "[no stack recorded]";
        assert_same(&stacks(&ours.profile, none), &stacks(&theirs, none), version);
    });
}

/// Compares `exoprof dump` with the program's own text, line by line.
#[test]
fn dumps_match_the_programs_own() {
    for_each_version(|version| {
        let mut target = GoTarget::start(version, "truth", Build::Plain);
        for (args, level, separator) in [(&[][..], 2, "\n\n"), (&["--group"][..], 1, "\n\n")] {
            let theirs = target.ask(&format!("goroutine {level}"));
            let pid = target.pid().to_string();
            let output = exoprof().args(["dump", "-p", &pid]).args(args).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let ours = String::from_utf8(output.stdout).unwrap();
            let records = |text: &str| -> Vec<String> {
                // The goroutine that makes the dump is elsewhere when exoprof reads.
                let dumps = |r: &&str| !r.contains("main.main");
                let text =
                    if level == 1 { text.split_once('\n').expect("a total").1 } else { text };
                text.split(separator).filter(dumps).map(|r| r.trim_end().to_owned()).collect()
            };
            let (ours, theirs) = (records(&ours), records(&theirs));
            assert!(ours.len() > 30, "{version}: {} records", ours.len());
            for (a, b) in ours.iter().zip(&theirs) {
                assert_eq!(a, b, "{version} debug={level}");
            }
            assert_eq!(ours.len(), theirs.len(), "{version} debug={level}");
        }
    });
}

#[test]
fn a_dump_also_writes_the_profile() {
    let target = GoTarget::start(LAST, "truth", Build::Stripped);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.pb.gz");
    let pid = target.pid().to_string();
    let run = |args: &[&str]| exoprof().args(["dump", "-p", &pid]).args(args).output().unwrap();
    let output = run(&["--pprof", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let profile = Profile::decode(&std::fs::read(&path).unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(profile.total("goroutine"), text.matches("\ngoroutine ").count() as i64 + 1);
    // An existing file is not overwritten.
    assert_eq!(run(&["--pprof", path.to_str().unwrap()]).status.code(), Some(1));
}

/// Go 1.26 and later: goroutines that nothing can ever wake are marked once the program has
/// searched for them.
#[test]
fn leaked_goroutines_are_reported() {
    let mut target = GoTarget::start(LAST, "truth", Build::Stripped);
    let leaked = target.own_profile("goroutineleak").total("goroutineleak");
    assert!(leaked > 20, "{leaked}");
    let recording = snapshot(&target, "goroutine");
    let note = format!("{leaked} goroutines are leaked");
    assert!(recording.stderr.contains(&note), "{}", recording.stderr);
    assert!(recording.profile.comments.iter().any(|c| c.contains(&note)));
}

/// With `--no-stop`, no thread is stopped; running goroutines then have no stack.
#[test]
fn without_a_stop() {
    let version = LAST;
    let mut target = GoTarget::start(version, "truth", Build::Plain);
    target.ask("many 50");
    let recording = record(target.pid(), &["goroutine", "--no-stop"]);
    let says = |what: &str| recording.profile.comments.iter().any(|c| c.contains(what));
    assert!(says("no thread was stopped"), "{:?}", recording.profile.comments);
    assert!(!says(" stopped, "), "{:?}", recording.profile.comments);
    let theirs = target.own_profile("goroutine");
    assert_eq!(recording.profile.total("goroutine"), theirs.total("goroutine"));
    target.ask("spin 1");
    // It is found running, unless Go has just taken the thread from it.
    let found = (0..20).any(|_| {
        let profile = record(target.pid(), &["goroutine", "--no-stop"]).profile;
        let ran = profile.sum("goroutine", |s| s.leaf().function.contains("was not stopped"));
        let says = |c: &String| c.contains("no complete stack");
        assert_eq!(ran > 0, profile.comments.iter().any(says), "{:?}", profile.comments);
        ran > 0
    });
    assert!(found, "the spinning goroutine was never found running");
}

//! Tests of CPU profiles of Go programs: stacks are complete across every stack switch, labels are
//! right, C and Go call each other, and names equal those of Go's own profiles.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::expect::{assert_reach, is_marked, reaches_root};
use exoprof_tests::gotarget::{BUILDS, Build, LAST, build, build_with, installed};
use exoprof_tests::{Profile, Recording, Sample, Target, gotool, procfs, record, record_busy};

/// Some stacks cannot be complete: a signal or the scheduler may be between two of them.
const WHOLE: f64 = 0.99;

fn start(version: &str, how: Build, mode: &str) -> Target {
    eprintln!("— Go {version} {how:?} {mode}");
    let mut command = Command::new(build(version, "cpu", how));
    command.arg(mode).env("GOMAXPROCS", "2");
    let mut target = Target::spawn_command(command);
    target.go(0);
    target
}

fn recorded(target: &Target) -> Recording {
    // Waits until most of its threads exist: new ones have no captures in their first 20 ms.
    let began = Instant::now();
    while procfs::cpu_of_all(target.pid()) < Duration::from_millis(200) {
        assert!(began.elapsed() < Duration::from_secs(180), "it does not work");
        std::thread::sleep(Duration::from_millis(10));
    }
    record_busy(target.pid(), 3.0, &["-F", "997"])
}

/// Whether the stack is complete, down to the root of a Go stack: a goroutine's or the scheduler's.
fn is_whole(s: &Sample) -> bool {
    let roots = ["runtime.goexit", "runtime.mcall", "runtime.mstart", "runtime.rt0_go"];
    // The thread no longer runs the goroutine that was preempted there.
    let preempted = s.root().function == "runtime.morestack" && s.has("runtime.gopreempt_m");
    let at_root = preempted || roots.iter().any(|root| s.root().function == *root);
    !is_marked(s) && (reaches_root(s) || at_root)
}

fn assert_whole(profile: &Profile) {
    assert_reach(profile, WHOLE, "the root of Go's stack", is_whole);
}

/// How many of some hundred samples may be incomplete: one in a hundred on average (threads have no
/// captures in their first 20 ms) plus three standard deviations; always at least two.
fn allowed_of(all: i64) -> f64 {
    allowed(all, 1.0 - WHOLE)
}

fn allowed(all: i64, share: f64) -> f64 {
    let mean = share * all as f64;
    f64::max(2.0, mean + 3.0 * mean.sqrt())
}

/// Like [`assert_whole`] for few samples: two may always be incomplete.
#[track_caller]
fn assert_whole_of_few(profile: &Profile) {
    let all = profile.total("samples");
    let missing = all - profile.sum("samples", is_whole);
    let allowed = allowed_of(all);
    let wrong = profile.describe(4, |s| !is_whole(s));
    assert!(missing as f64 <= allowed, "{missing} of {all} are not whole:\n{wrong}");
}

/// Of the samples with this function, nearly all continue to `outer`, and there are at least
/// `least`. On a busy machine a target gets so little CPU time that one sample is more than 1% of
/// all; two may always be missing.
#[track_caller]
fn assert_leads_to(profile: &Profile, function: &str, outer: &str, least: i64) {
    let with = |s: &Sample| s.has(function);
    let all = profile.sum("samples", with);
    assert!(all >= least, "{all} samples with {function}: {}", profile.describe(8, |_| true));
    let good = profile.sum("samples", |s| with(s) && is_whole(s) && s.has(outer));
    let wrong = profile.describe(4, |s| with(s) && !s.has(outer));
    let missing = (all - good) as f64;
    let allowed = allowed_of(all);
    assert!(missing <= allowed, "{function}: {good} of {all} to {outer}:\n{wrong}");
}

/// Allocating large objects, growing stacks and reading clocks each switch away from the
/// goroutine's stack in a different way.
#[test]
fn stacks_continue_across_stack_switches() {
    for version in installed() {
        let target = start(version, Build::Plain, "systems");
        let profile = recorded(&target).profile;
        assert_whole(&profile);
        assert_leads_to(&profile, "main.clocks", "main.systems.func1", 50);
        assert_leads_to(&profile, "runtime.systemstack", "runtime.goexit", 10);
        assert_leads_to(&profile, "runtime.copystack", "runtime.goexit", 2);
    }
}

#[test]
fn stacks_under_garbage_collection_in_every_build() {
    for how in BUILDS {
        let target = start(LAST, how, "gc");
        let profile = recorded(&target).profile;
        assert_whole(&profile);
        assert_leads_to(&profile, "runtime.systemstack", "runtime.goexit", 20);
        // The worker's own goroutine, which unwinding by frame pointers alone would skip.
        assert_leads_to(&profile, "runtime.gcDrain", "runtime.gcBgMarkWorker", 5);
    }
}

/// Frameless assembly keeps its caller's frame pointer, so unwinding by frame pointers alone loses
/// that caller in up to half of the samples (measured).
#[test]
fn the_caller_of_frameless_assembly_is_found() {
    let sites = ["main.moves", "main.searches", "main.sorts", "main.builds"];
    for version in installed() {
        Rule { tolerance: 2.0, fault: 10.0, rounds: 4 }.check(|| {
            let mut target = start(version, Build::Plain, "mix");
            let own = tempfile::NamedTempFile::new().expect("a file");
            target.send(&format!("profile 4000 {}", own.path().display()));
            target.expect("done");
            let before = target.mark();
            let recording = record_busy(target.pid(), 4.0, &["-F", "997"]);
            let truth = target.mark().since(&before);
            let profile = &recording.profile;
            assert_whole(profile);
            // Only the work itself, not the measuring.
            let measures = |s: &Sample| s.has("main.threadTime") || s.has("main.site");
            let in_mix = |s: &Sample| s.has("main.timed") && !measures(s);
            let lost = |s: &Sample| in_mix(s) && !sites.iter().any(|site| s.has(site));
            let (all, lost_count) = (profile.sum("samples", in_mix), profile.sum("samples", lost));
            assert!(all > 100, "{all} samples");
            assert!(
                lost_count * 100 <= all,
                "Go {version}: {lost_count} of {all} lack a caller:\n{}",
                profile.describe(5, lost)
            );
            let share = |rows: &[gotool::TopRow]| {
                let row = rows.iter().find(|r| r.function == "runtime.memmove");
                row.map_or(0.0, |r| r.flat)
            };
            let ours = share(&gotool::top(&recording.path));
            let theirs = share(&gotool::top(own.path()));
            assert!(theirs > 5.0, "{theirs}");
            // Compared with the program's own clock, which also counts what is outside of the sites.
            let samples = profile.total("samples") as f64;
            let mut deviations: Vec<_> = sites
                .iter()
                .zip(["moves", "searches", "sorts", "builds"])
                .map(|(function, site)| {
                    let here = profile.sum("cpu", |s| s.has(function)) as f64;
                    let share = 100.0 * here / profile.total("cpu") as f64;
                    Deviation::share(site, share, 100.0 * truth.share(site), samples)
                })
                .collect();
            // The two profiles cover different seconds.
            let bytes = std::fs::read(own.path()).expect("its own profile");
            let their_samples = Profile::decode_foreign(&bytes).total("samples") as f64;
            let chance = [samples, their_samples].map(|n| 0.2 * 0.8 / n).iter().sum::<f64>().sqrt();
            let memmove = format!("memmove of Go {version}");
            deviations.push(Deviation { what: memmove, off: ours - theirs, sigma: 100.0 * chance });
            (deviations, ())
        });
    }
}

/// Each request's work is a function of its own, so that each stack shows which label is right.
#[test]
fn labels_match_the_sampled_request() {
    for version in installed() {
        Rule { tolerance: 1.0, fault: 8.0, rounds: 6 }.check(|| {
            let mut target = start(version, Build::Stripped, "labels");
            let before = target.mark();
            let recording = recorded(&target);
            let truth = target.mark().since(&before);
            let profile = &recording.profile;
            assert_whole(profile);
            let works = [
                ("main.short", "short"),
                ("main.middle", "middle"),
                ("main.long", "long"),
                ("main.unlabelled", ""),
                ("main.manyLabelled", ""),
            ];
            for (function, label) in works {
                let here = |s: &Sample| s.has(function);
                let all = profile.sum("samples", here);
                let right = profile.sum("samples", |s| here(s) && s.label("request") == label);
                assert!(all >= 3, "Go {version}: {all} samples in {function}");
                assert!(
                    (all - right) as f64 <= allowed(all, 0.005),
                    "Go {version} {function}: {right} of {all}"
                );
            }
            let kind = |s: &Sample| (s.label("kind") == "served") != s.label("request").is_empty();
            assert_reach(profile, 1.0, "both labels or none", kind);
            // More labels, and longer ones, than are copied with the sample.
            let whole = |s: &Sample| {
                (0..12).all(|i| s.label(&format!("key{i:02}")).chars().count() == 60 + 10 * i)
            };
            let many = profile.sum("samples", |s| s.has("main.manyLabelled"));
            let right = profile.sum("samples", |s| s.has("main.manyLabelled") && whole(s));
            let missing = (many - right) as f64;
            assert!(missing <= allowed(many, 0.005), "Go {version}: {right} of {many} with all");

            let (total, samples) = (profile.total("cpu") as f64, profile.total("samples") as f64);
            let mut deviations = Vec::new();
            for (name, ns) in profile.by_label("cpu", "request") {
                if !name.is_empty() {
                    let (here, real) = (100.0 * ns as f64 / total, 100.0 * truth.share(&name));
                    deviations.push(Deviation::share(&name, here, real, samples));
                }
            }
            let comments = profile.comments.join("\n");
            assert!(!comments.contains("goroutine labels"), "some were not read: {comments}");
            (deviations, ())
        });
    }
}

/// Recordings that stop threads read the stacks that a thread has switched away from, and the
/// labels, from memory.
#[test]
fn stacks_of_stopped_threads_continue_across_stack_switches() {
    for version in installed() {
        let target = start(version, Build::Plain, "systems");
        for what in [&["wall"][..], &["cpu", "--backend", "ptrace"]] {
            let profile = record_busy(target.pid(), 1.5, &[what, &["-F", "499"]].concat()).profile;
            assert_whole_of_few(&profile);
            let crosses = |s: &Sample| s.has("runtime.systemstack") || s.has("runtime.copystack");
            let (all, whole) = (
                profile.sum("samples", crosses),
                profile.sum("samples", |s| crosses(s) && s.has("runtime.goexit")),
            );
            // On a busy machine stops take longer, and there are fewer of them.
            assert!(all >= 2, "Go {version} {what:?}: {all} on the system stack");
            // Each time, one sample may be at the moment between two stacks.
            assert!(all - whole <= 2, "{whole} of {all}: {}", profile.describe(4, crosses));
        }
    }
}

#[test]
fn stopped_threads_have_their_goroutines_labels() {
    for version in installed() {
        let target = start(version, Build::Stripped, "labels");
        for what in [&["wall"][..], &["cpu", "--backend", "ptrace"]] {
            let profile = record_busy(target.pid(), 1.5, &[what, &["-F", "499"]].concat()).profile;
            let mut all = 0;
            let works = [("short", "short"), ("middle", "middle"), ("long", "long")];
            for (function, label) in works.into_iter().chain([("unlabelled", "")]) {
                let here = |s: &Sample| s.has(&format!("main.{function}"));
                let count = profile.sum("samples", here);
                let right = profile.sum("samples", |s| here(s) && s.label("request") == label);
                assert_eq!(right, count, "Go {version} {what:?} {function}");
                all += count;
            }
            assert!(all >= 3, "Go {version} {what:?}: {all}");
            let many = |s: &Sample| s.has("main.manyLabelled");
            let key = "é".repeat(170);
            let cut = profile.sum("samples", |s| many(s) && s.label("key11") != key);
            assert_eq!(cut, 0, "Go {version} {what:?}");
        }
    }
}

/// Threads that sleep in C are not even stopped.
#[test]
fn stacks_of_sleeping_threads_continue_from_c_into_go() {
    for how in [Build::Cgo, Build::StrippedPieCgo] {
        let target = start(LAST, how, "waits");
        let profile = record(target.pid(), &["wall", "-d", "1s"]).profile;
        assert_whole(&profile);
        let in_c = |s: &Sample| s.has("main.waitInC") && s.has("runtime.goexit");
        let through = |s: &Sample| in_c(s) && s.has("crosscall2") && s.has("main.waits");
        // Two threads, each for about a second.
        for (what, ns) in [
            ("C", profile.sum("wall", |s| in_c(s) && !through(s))),
            ("Go that C called", profile.sum("wall", through)),
        ] {
            let seconds = ns as f64 / 1e9;
            let said = profile.describe(6, |_| true);
            assert!((0.8..1.5).contains(&seconds), "{how:?}: {seconds} s in {what}:\n{said}");
        }
    }
}

/// The functions between two others, innermost first.
fn between<'a>(s: &'a Sample, inner: &str, outer: &str) -> Option<Vec<&'a str>> {
    let from = s.position(inner)?;
    let rest = s.stack.get(from + 1..)?;
    let to = rest.iter().position(|f| f.function == outer)?;
    Some(rest[..to].iter().map(|f| f.function.as_str()).collect())
}

#[test]
fn c_and_go_call_each_other() {
    for how in [Build::Cgo, Build::StrippedPieCgo] {
        let target = start(LAST, how, "cgo");
        let profile = recorded(&target).profile;
        assert_whole(&profile);
        for function in ["main.intoC", "main.calledBack", "main.fromC"] {
            assert_leads_to(&profile, function, "main.cgo", 20);
        }
        assert_leads_to(&profile, "main.fromC", "main.throughC", 20);
        // When C calls back into Go, the C frames are between the Go frames, by name if the program
        // has symbols.
        let back = |s: &Sample| {
            let c = between(s, "crosscall2", "runtime.asmcgocall");
            c.is_some_and(|c| match how {
                Build::Cgo => c == ["fromC", "c_calls_back"],
                _ => !c.is_empty(),
            })
        };
        let all = profile.sum("samples", |s| s.has("main.fromC"));
        let good = profile.sum("samples", |s| s.has("main.fromC") && back(s));
        let wrong = profile.describe(3, |s| s.has("main.fromC") && !back(s));
        assert!(good as f64 >= WHOLE * all as f64, "{how:?}: {good} of {all}:\n{wrong}");
        // The work itself is in C, called by Go.
        let in_c = |s: &Sample| match how {
            Build::Cgo => s.has("c_work") && s.has("c_outer"),
            _ => s.position("runtime.asmcgocall").is_some_and(|at| at >= 2),
        };
        let share = profile.sum("cpu", in_c) as f64 / profile.total("cpu") as f64;
        assert!(share > 0.2, "{share}");
    }
}

/// The callers of `main.burn` as text, with their share of all samples.
fn callers(profile: &Profile) -> BTreeMap<String, f64> {
    let mut chains = BTreeMap::new();
    let total = profile.total("samples") as f64;
    for s in &profile.samples {
        let Some(at) = s.position("main.burn") else { continue };
        let line = |f: &exoprof_tests::Frame| {
            let inlined = if f.inlined { " (inline)" } else { "" };
            format!("{} {}:{} from {}{inlined}\n", f.function, f.file, f.line, f.start_line)
        };
        // Go omits the frame that every goroutine begins with.
        let shown = s.stack[at + 1..].iter().filter(|f| f.function != "runtime.goexit");
        let text: String = shown.map(line).collect();
        *chains.entry(text).or_default() += s.values[0] as f64 / total;
    }
    chains
}

#[test]
fn names_lines_and_inlined_calls_match_gos_own_profile() {
    let builds = [Build::Plain, Build::Stripped, Build::StrippedPieCgo];
    let latest = builds.map(|how| (LAST, how));
    let earlier = installed().into_iter().filter(|v| *v != LAST).map(|v| (v, Build::Stripped));
    for (version, how) in latest.into_iter().chain(earlier) {
        let mut target = start(version, how, "names");
        let own = tempfile::NamedTempFile::new().expect("a file");
        target.send(&format!("profile 3000 {}", own.path().display()));
        target.expect("done");
        let ours = callers(&recorded(&target).profile);
        let bytes = std::fs::read(own.path()).expect("its own profile");
        let theirs = callers(&Profile::decode_foreign(&bytes));
        // Seven kinds of calls take equal shares; rare ones may be in only one of the profiles.
        let often = |chains: &BTreeMap<String, f64>| -> Vec<String> {
            chains.iter().filter(|(_, share)| **share > 0.03).map(|(c, _)| c.clone()).collect()
        };
        let (ours, theirs) = (often(&ours), often(&theirs));
        assert!(theirs.len() >= 7, "{theirs:#?}");
        assert_eq!(ours, theirs, "Go {version} {how:?}");
    }
}

#[test]
fn go_build_accepts_our_profile_for_pgo() {
    let target = start(LAST, Build::Stripped, "names");
    let recording = recorded(&target);
    let (profile, debug) = (format!("-pgo={}", recording.path.display()), "-gcflags=-d=pgodebug=1");
    let flags = [profile.as_str(), debug];
    let (_, said) = build_with(LAST, "cpu", Build::Plain, "-pgo", &flags);
    // The compiler recognizes the hot calls by function and by line from the function's start.
    for function in ["main.inlines", "main.inlined1", "main.inlined2"] {
        let hot = format!("hot-node enabled increased budget=2000 for func={function}");
        assert!(said.contains(&hot), "{function} in:\n{said}");
    }
}

//! Tests of JIT-compiled code: it is symbolized from its perf map or jitdump as of each sample's
//! time.

use std::path::PathBuf;
use std::process::Command;

use exoprof_tests::expect::{assert_reach, assert_roots};
use exoprof_tests::programs::JIT;
use exoprof_tests::server::Background;
use exoprof_tests::{Profile, Recorder, Sample, Target, procfs, record, record_busy, repository};

fn target_file(name: &str) -> PathBuf {
    repository().join("tests/targets").join(name)
}

/// Asserts that at least `share` of the samples in compiled code have the name of the code that
/// their caller had compiled.
#[track_caller]
fn assert_named_in_time(profile: &Profile, share: f64) {
    let named = |s: &Sample| s.has("jit_first") || s.has("jit_second");
    let right = |s: &Sample| {
        s.has("jit_first") && s.has("run_first") || s.has("jit_second") && s.has("run_second")
    };
    let all = profile.sum("samples", named);
    let (first, second) = (
        profile.sum("samples", |s| s.has("run_first")),
        profile.sum("samples", |s| s.has("run_second")),
    );
    let seen = profile.describe(6, |s| !right(s));
    assert!(first > 0 && second > 0 && all as f64 > 0.9 * (first + second) as f64, "{seen}");
    let good = profile.sum("samples", right);
    assert!(good as f64 >= share * all as f64, "{good} of {all} named in time:\n{seen}");
}

/// exoprof reads the map when it reads samples, some 20 ms after they were taken: the end of each
/// turn of 300 and 100 ms of CPU time gets the name of the next code.
#[test]
fn perf_map_with_code_that_is_replaced() {
    let target = Target::working(JIT, &["map"]);
    let profile = record_busy(target.pid(), 3.0, &["-F", "997"]).profile;
    let _ = target.finish();
    assert_named_in_time(&profile, 0.8);
    assert_reach(&profile, 0.98, "main", |s| s.has("main"));
}

/// The dump has timestamps: turns of 30 and 10 ms are exact, except for a sample taken between
/// writing the record and the call.
#[test]
fn jitdump_with_code_that_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::working(JIT, &["dump", folder.path().to_str().unwrap()]);
    let profile = record_busy(target.pid(), 3.0, &["-F", "997"]).profile;
    let _ = target.finish();
    assert_named_in_time(&profile, 0.99);
}

/// Anyone may write to /tmp: another user's map is not used, and the profile says so.
#[test]
fn perf_map_of_another_user() {
    let target = Target::working(JIT, &["stale"]);
    let path = PathBuf::from(format!("/tmp/perf-{}.map", target.pid()));
    std::fs::write(&path, "0 7fffffffffff planted\n").unwrap();
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    let recording = record(target.pid(), &["-d", "1s", "-F", "499"]);
    std::fs::remove_file(&path).unwrap();
    let planted = recording.profile.sum("samples", |s| s.has("planted"));
    assert_eq!(planted, 0, "{}", recording.profile.describe(3, |_| true));
    let comments = recording.profile.comments.join("\n");
    assert!(comments.contains("belongs to user 65534"), "{comments}");
}

/// A sparse file of a gigabyte: it is read partially, in bounded time and memory, and the profile
/// says so.
#[test]
fn perf_map_of_a_gigabyte() {
    let target = Target::working(JIT, &["stale"]);
    let path = PathBuf::from(format!("/tmp/perf-{}.map", target.pid()));
    let line = format!("{:0>16x} 10 a_name_of_no_interest\n", 0x1000);
    std::fs::write(&path, line.repeat(1000)).unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let recording = record(target.pid(), &["-d", "2s", "-F", "499"]);
    std::fs::remove_file(&path).unwrap();
    let comments = recording.profile.comments.join("\n");
    assert!(comments.contains("only the last 64 MiB were read"), "{comments}");
    assert!(recording.max_rss_kib < 150 << 10, "{} KiB", recording.max_rss_kib);
}

fn busy(command: &mut Command) -> Background {
    let mut child = Background::start(command);
    let pid = child.pid();
    let cpu = || procfs::cpu_by_thread(pid).values().sum::<u64>();
    child.wait_until("busy", || cpu() > 700_000_000);
    child
}

#[track_caller]
fn assert_hot_functions(profile: &Profile, whole: f64) {
    let part =
        |name: &str| profile.sum("cpu", |s| s.leaf().is(name)) as f64 / profile.total("cpu") as f64;
    // The expected shares are 75% and 25%; which function waits for its compiler varies. On a busy
    // machine there are some 300 samples; three standard deviations are 7.5 points.
    let (alpha, beta) = (part("hotAlpha"), part("hotBeta"));
    let seen = profile.describe(5, |_| true);
    assert!((0.6..0.88).contains(&alpha), "hotAlpha {alpha}\n{seen}");
    assert!((0.12..0.4).contains(&beta), "hotBeta {beta}\n{seen}");
    assert!(alpha + beta > whole, "{alpha} + {beta}\n{seen}");
    let frames = || profile.samples.iter().flat_map(|s| &s.stack);
    let hot = frames().find(|f| f.is("hotAlpha")).unwrap();
    assert!(hot.file.ends_with("shares.js") && hot.start_line == 4, "{hot:?}");
    assert!(hot.system_name.starts_with("JS:"), "{hot:?}");
}

/// Without inlining, so that each function has its own frame.
const NODE: &[&str] = &["--no-turbo-inlining"];

#[test]
fn node_with_a_perf_map() {
    // V8 leaves a log in its working folder.
    let folder = tempfile::tempdir().unwrap();
    let mut node = busy(
        Command::new("/usr/bin/node")
            .arg("--perf-basic-prof")
            .args(NODE)
            .arg(target_file("shares.js"))
            .current_dir(folder.path()),
    );
    let profile = record_busy(node.pid(), 2.0, &["-F", "997"]).profile;
    node.assert_running();
    assert_hot_functions(&profile, 0.9);
    let _ = std::fs::remove_file(format!("/tmp/perf-{}.map", node.pid()));
}

/// V8's builtins and its interpreter's handlers have no unwind information. A third of them have no
/// frame either; only the return address shows their caller.
#[test]
fn node_in_builtins() {
    for how in [&["--no-turbo-inlining"][..], &["--no-opt", "--no-sparkplug"]] {
        let folder = tempfile::tempdir().unwrap();
        let node = busy(
            Command::new("/usr/bin/node")
                // The second option gives each interpreted function a name.
                .args(["--perf-basic-prof", "--interpreted-frames-native-stack"])
                .args(how)
                .arg(target_file("builtins.js"))
                .current_dir(folder.path()),
        );
        let profile = record_busy(node.pid(), 3.0, &["-F", "997"]).profile;
        assert_roots(&profile, 0.99);
        let in_builtins = |s: &Sample| s.leaf().function.starts_with("Builtins_");
        let share = profile.sum("samples", in_builtins) as f64 / profile.total("samples") as f64;
        assert!(share > 0.2, "{share}: {how:?} works elsewhere: {}", profile.describe(5, |_| true));
        // Builtins are called from within the loop's function.
        let of_loop = |s: &Sample| in_builtins(s) && s.has("outerWork");
        let all = profile.sum("samples", of_loop);
        let good = profile.sum("samples", |s| of_loop(s) && s.has("innerWork"));
        let lost = profile.describe(5, |s| of_loop(s) && !s.has("innerWork"));
        assert!(good as f64 >= 0.97 * all as f64, "{how:?}: {good} of {all} by innerWork:\n{lost}");
        let _ = std::fs::remove_file(format!("/tmp/perf-{}.map", node.pid()));
    }
}

/// V8 buffers the dump: the records of the hot functions are written when node ends.
#[test]
fn node_with_a_jitdump() {
    let folder = tempfile::tempdir().unwrap();
    let node = busy(
        Command::new("/usr/bin/node")
            .arg("--perf-prof")
            .args(NODE)
            .arg(target_file("shares.js"))
            .arg("5000")
            .current_dir(folder.path()),
    );
    let profile =
        Recorder::of(node.pid()).args(["-d", "10m", "-F", "997"]).run().recording().profile;
    assert_hot_functions(&profile, 0.8);
    let lines: std::collections::BTreeSet<i64> = profile
        .samples
        .iter()
        .map(|s| s.leaf())
        .filter(|f| f.is("hotAlpha"))
        .map(|f| f.line)
        .collect();
    assert!(lines.iter().all(|l| *l == 0 || (4..=8).contains(l)), "{lines:?}");
    assert!(lines.contains(&6), "the loop's line: {lines:?}");
}

/// A browser: hardly any of its 236 MB of code has unwind tables. It keeps frame pointers, which
/// exoprof uses where the code confirms them.
#[test]
fn chromium_without_unwind_tables() {
    let folder = tempfile::tempdir().unwrap();
    let script = std::fs::read_to_string(target_file("shares.js")).unwrap();
    let functions = &script[..script.find("const end").unwrap()];
    let page = folder.path().join("page.html");
    let turns = "function turn() { const end = Date.now() + 100;
        while (Date.now() < end) { hotAlpha(30000); hotBeta(10000); } setTimeout(turn, 0); } turn();";
    std::fs::write(&page, format!("<script>{functions}{turns}</script>")).unwrap();
    let data = format!("--user-data-dir={}", folder.path().join("data").display());
    let mut browser = Background::start(
        Command::new("/usr/bin/chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", &data])
            .arg("--js-flags=--perf-basic-prof")
            .arg(&page)
            .current_dir(folder.path()),
    );
    let renderer = || {
        let all = procfs::with_words(&["--type=renderer", &data]);
        all.into_iter().find(|pid| procfs::cpu_of_main_thread(*pid) > 700_000_000)
    };
    browser.wait_until("busy", || renderer().is_some());
    let renderer = renderer().unwrap();
    let profile = record_busy(renderer, 2.0, &["-F", "997"]).profile;
    browser.assert_running();
    // Each of its processes has left a map.
    for pid in procfs::with_words(&[&data]) {
        let _ = std::fs::remove_file(format!("/tmp/perf-{pid}.map"));
    }
    // V8 may inline the others into this function.
    let hot = |s: &Sample| s.has("turn");
    assert_reach(&profile, 0.7, "the hot function", hot);
    assert_reach(&profile, 0.99, "main from the hot function", |s| !hot(s) || s.has("ChromeMain"));
    assert_roots(&profile, 0.99);
}

/// The .NET runtime comes from a wheel on PyPI, and Mono's compiler compiles the program.
#[test]
fn dotnet_with_a_perf_map() {
    let runtime = repository().join(".cache/dotnet/dotnetcore2/bin");
    let of_version = std::fs::read_dir(runtime.join("shared/Microsoft.NETCore.App"))
        .unwrap_or_else(|e| panic!("{}: {e}; run scripts/setup-tests", runtime.display()))
        .next()
        .unwrap()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("Shares.dll");
    let library = |name: &str| format!("-r:{}", of_version.path().join(name).display());
    let compiled = Command::new("mcs")
        .args(["-nostdlib", "-noconfig", "-optimize+", &library("System.Private.CoreLib.dll")])
        .args([library("System.Runtime.dll"), library("System.Console.dll")])
        .arg(format!("-out:{}", program.display()))
        .arg(target_file("Shares.cs"))
        .output()
        .expect("mcs, which scripts/setup-tests installs");
    assert!(compiled.status.success(), "{compiled:?}");
    let version = of_version.file_name().into_string().unwrap();
    let config = format!(
        r#"{{"runtimeOptions": {{"framework": {{"name": "Microsoft.NETCore.App", "version": "{version}"}}}}}}"#
    );
    std::fs::write(folder.path().join("Shares.runtimeconfig.json"), config).unwrap();
    let mut dotnet = busy(
        Command::new(runtime.join("dotnet"))
            .arg(&program)
            .env("COMPlus_PerfMapEnabled", "1")
            .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1"),
    );
    let profile = record_busy(dotnet.pid(), 2.0, &["-F", "997"]).profile;
    dotnet.assert_running();
    for name in ["perf", "perfinfo"] {
        let _ = std::fs::remove_file(format!("/tmp/{name}-{}.map", dotnet.pid()));
    }
    let part = |name: &str| {
        let here = |s: &Sample| s.leaf().is(&format!("float64 [Shares] Shares::{name}(int32)"));
        profile.sum("cpu", here) as f64 / profile.total("cpu") as f64
    };
    // The expected shares are 75% and 25%. With some 300 samples, three standard deviations are 7.5
    // points.
    let (alpha, beta) = (part("HotAlpha"), part("HotBeta"));
    let seen = profile.describe(5, |_| true);
    assert!((0.67..0.83).contains(&alpha), "HotAlpha {alpha}\n{seen}");
    assert!((0.17..0.33).contains(&beta), "HotBeta {beta}\n{seen}");
    assert_roots(&profile, 0.99);
}

/// Java writes its map on request. Until then, the profile's comments say how to request one.
#[test]
fn java_with_and_without_a_perf_map() {
    let mut java = busy(
        Command::new("java")
            .args(["-XX:+PreserveFramePointer", "-XX:-Inline"])
            .arg(target_file("Shares.java")),
    );
    let pid = java.pid().to_string();
    let profile = record(java.pid(), &["-d", "1s", "-F", "499"]).profile;
    let comments = profile.comments.join("\n");
    assert!(comments.contains(&format!("jcmd {pid} Compiler.perfmap")), "{comments}");
    let asked = Command::new("jcmd").args([&pid, "Compiler.perfmap"]).output().expect("jcmd");
    assert!(asked.status.success(), "{asked:?}");
    let profile = record_busy(java.pid(), 2.0, &["-F", "997"]).profile;
    java.assert_running();
    let _ = std::fs::remove_file(format!("/tmp/perf-{pid}.map"));
    let part = |name: &str| {
        let here = |s: &Sample| s.stack.iter().any(|f| f.function.contains(name));
        profile.sum("cpu", here) as f64 / profile.total("cpu") as f64
    };
    let (a, b) = (part("Shares.heavyA(int)"), part("Shares.heavyB(int)"));
    let seen = profile.describe(5, |_| true);
    // The expected shares are 75% and 25%; with some 300 samples on a busy machine, three standard
    // deviations are 7.5 points.
    assert!((0.65..0.85).contains(&a) && (0.15..0.35).contains(&b), "{a} {b}\n{seen}");
    // Unwound by frame pointers through the interpreter's frames to the thread's start.
    assert_reach(&profile, 0.98, "the thread's start", |s| s.has("start_thread"));
    assert!(!profile.comments.join("\n").contains("Compiler.perfmap"));
}

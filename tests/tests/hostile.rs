//! Tests of targets that lie: time and memory stay bounded, nothing outside the target's root is
//! read, and the honest parts of the profile are still right.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use exoprof_tests::programs::{self, Program};
use exoprof_tests::{Outcome, Recorder, Recording, Target, record_busy};

const MIB: u64 = 1024;

fn hostile(way: &str, folder: &Path) -> Target {
    Target::working(programs::HOSTILE, &[way, folder.to_str().unwrap()])
}

fn recorded(target: &Target) -> Recording {
    record_busy(target.pid(), 1.5, &["-F", "499"])
}

/// Asserts that exoprof did not panic and stderr has no terminal escapes from the target.
fn assert_harmless(outcome: &Outcome) {
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    assert!(!outcome.stderr.contains('\u{1b}'), "{:?}", outcome.stderr);
}

#[test]
fn a_hundred_thousand_mappings_with_names_that_lie() {
    let folder = tempfile::tempdir().unwrap();
    let target = hostile("maps", folder.path());
    let count: u64 = target.given("count").parse().unwrap();
    // vm.max_map_count is 65,530 by default.
    assert!(count > 50_000, "{count}");
    let outcome = recorded(&target);
    assert_harmless(&outcome);
    let used = outcome.max_rss_kib;
    assert!(used < 300 * MIB, "{} MiB for {count} mappings", used / MIB);
    let profile = &outcome.profile;
    let share = profile.sum("cpu", |s| s.has("honest_work")) as f64 / profile.total("cpu") as f64;
    assert!(share > 0.8, "{share}: {}", profile.describe(5, |_| true));
    let _ = target.finish();
}

#[test]
fn a_stack_pointer_that_points_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let target = hostile("stack", folder.path());
    let outcome = recorded(&target);
    assert_harmless(&outcome);
    let used = outcome.max_rss_kib;
    assert!(used < 100 * MIB, "{} MiB", used / MIB);
    let profile = &outcome.profile;
    // The instruction pointer shows in any case where it executes.
    assert!(profile.sum("cpu", |s| s.has("elsewhere")) > 0, "{}", profile.describe(5, |_| true));
    assert!(profile.sum("cpu", |s| s.has("honest_work")) > 0);
    let _ = target.finish();
}

#[test]
fn a_function_that_is_its_own_caller() {
    let folder = tempfile::tempdir().unwrap();
    let target = hostile("frames", folder.path());
    let outcome = recorded(&target);
    assert_harmless(&outcome);
    let profile = &outcome.profile;
    let own = profile.samples.iter().filter(|s| s.has("own_caller"));
    let deepest = own.map(|s| s.stack.len()).max().expect("it is sampled");
    assert!(deepest < 2100, "{deepest}");
    assert!(profile.sum("cpu", |s| s.has("honest_work")) > 0);
    let _ = target.finish();
}

/// The target's debug link names a symbolic link that leaves the target's root, to a file that
/// would match.
#[test]
fn links_out_of_the_root_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    for dir in [root.join(".debug"), outside.clone()] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let whole = programs::SHARES_STATIC.path();
    let program = root.join("program");
    let debug = outside.join("program.debug");
    objcopy(&["--only-keep-debug", text(&whole), text(&debug)]);
    objcopy(&[
        "--strip-all",
        &format!("--add-gnu-debuglink={}", text(&debug)),
        text(&whole),
        text(&program),
    ]);
    symlink(&debug, root.join("program.debug")).unwrap();
    symlink("../../outside/program.debug", root.join(".debug/program.debug")).unwrap();
    let names = || {
        let mut command = Command::new("chroot");
        command.arg(&root).arg("/program");
        let mut target = Target::spawn_command(command);
        target.go(0);
        let recording = recorded(&target);
        let _ = target.finish();
        recording.profile.sum("cpu", |s| s.has("heavy_a")) > 0
    };
    assert!(!names(), "a file outside of the target's root was used");
    // The same file inside the root is found, so the test can fail.
    std::fs::remove_file(root.join("program.debug")).unwrap();
    std::fs::copy(&debug, root.join("program.debug")).unwrap();
    assert!(names(), "a debug file in the target's root is used");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn objcopy(args: &[&str]) {
    let done = Command::new("objcopy").args(args).output().expect("objcopy");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// 512 MiB of zeros in 80 kB of xz, as MiniDebugInfo: they are not unpacked, and the profile says so.
#[test]
fn a_decompression_bomb_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (bomb, program) = (folder.path().join("bomb.xz"), folder.path().join("program"));
    let script = "head -c 512M /dev/zero | xz -0 > \"$0\"";
    let made = Command::new("sh").args(["-c", script, text(&bomb)]).status().expect("sh");
    assert!(made.success() && bomb.metadata().unwrap().len() < 600_000);
    let section = format!("--add-section=.gnu_debugdata={}", text(&bomb));
    objcopy(&["--strip-all", &section, text(&programs::SHARES_STATIC.path()), text(&program)]);
    let mut target = Target::spawn_command(Command::new(&program));
    target.go(600_000);
    let outcome = recorded(&target);
    assert_harmless(&outcome);
    let comments = &outcome.profile.comments;
    let named = |c: &&String| c.contains(text(&program)) && c.contains("sections were left out");
    assert!(comments.iter().any(|c| named(&c)), "{comments:?}");
    let used = outcome.max_rss_kib;
    assert!(used < 150 * MIB, "{} MiB", used / MIB);
    let _ = target.finish();
}

/// Debug information in the user's debuginfod cache is used, also under sudo; a server is only
/// contacted with `--debuginfod`.
#[test]
fn debug_information_from_the_cache_and_from_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let program: Program = programs::SHARES_BUILD_ID;
    let (stripped, debug) = (folder.path().join("program"), folder.path().join("debug"));
    objcopy(&["--only-keep-debug", text(&program.path()), text(&debug)]);
    objcopy(&["--strip-all", text(&program.path()), text(&stripped)]);
    let mut target = Target::spawn_command(Command::new(&stripped));
    target.go(0);
    let cache = folder.path().join("cache");
    let record = |cache: &Path, args: &[&str], url: &str| {
        let recorder = Recorder::of(target.pid()).args(["-d", "1s", "-F", "499"]).args(args);
        let recorder = recorder.env("DEBUGINFOD_CACHE_PATH", text(cache));
        let recorder = recorder.env("DEBUGINFOD_URLS", url);
        recorder.run()
    };
    let found = |outcome: Outcome| {
        let profile = outcome.recording().profile;
        let id = profile.mappings[0].build_id.clone();
        (id, profile.sum("cpu", |s| s.has("heavy_a")) > 0)
    };
    let (id, named) = found(record(&cache, &[], ""));
    assert!(!named && id.len() == 40, "{id}");
    record(&cache, &["--debuginfod"], "").assert_fails(2, &["DEBUGINFOD_URLS"]);

    let bytes = std::fs::read(&debug).unwrap();
    let (url, asked) = serve(format!("/buildid/{id}/debuginfo"), bytes.clone());
    assert!(!found(record(&cache, &[], &url)).1, "the server was used without --debuginfod");
    assert!(asked.try_iter().next().is_none(), "the server was contacted without --debuginfod");
    assert!(found(record(&cache, &["--debuginfod"], &url)).1);
    assert_eq!(std::fs::read(cache.join(&id).join("debuginfo")).unwrap(), bytes);
    assert!(found(record(&cache, &[], "")).1, "the downloaded file is not used from the cache");
    let _ = target.finish();
}

/// Serves one path over HTTP and reports the requests.
fn serve(path: String, bytes: Vec<u8>) -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
            let (status, body) = match first.split(' ').nth(1) == Some(&path) {
                true => ("200 OK", &bytes[..]),
                false => ("404 Not Found", &b""[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            if sender.send(first).is_err() {
                return;
            }
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    (url, asked)
}

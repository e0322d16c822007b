//! Tests that names of a process, a file and a function never reach a terminal, a log or an answer as
//! they are: no line is forged, no terminal is controlled. The profile keeps them.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use exoprof_tests::http::Server;
use exoprof_tests::{Recorder, Target, exoprof, programs};

/// The file's name, which is the process' name too: the kernel keeps 15 bytes.
const FILE: &str = "e\nerr\u{1b}[m\u{9b}\u{202e}";
const FILE_SHOWN: &str = r"e\nerr\x1b[m\u{9b}\u{202e}";
/// The name of the function with half of the CPU time.
const FUNCTION: &str = "heavy\nerr\u{1b}[31m\u{9b}1m\u{2028}";
const FUNCTION_SHOWN: &str = r"heavy\nerr\x1b[31m\u{9b}1m\u{2028}";

/// Asserts that the text has no line of a name's choosing, and nothing but line breaks and tabs that
/// a terminal would obey.
#[track_caller]
fn assert_harmless(what: &str, text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_else(|e| panic!("{what}: {e}"));
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || ('\u{2028}'..='\u{202e}').contains(&c)
    };
    let found = text.find(bad).map(|at| text[at.saturating_sub(20)..].chars().take(60));
    let found = found.map(String::from_iter);
    assert_eq!(found, None, "{what}: {:?}", text.chars().take(2000).collect::<String>());
    assert!(
        text.lines().all(|l| !l.starts_with("err\\") && !l.starts_with("err\u{1b}")),
        "{what}: {text}"
    );
}

#[track_caller]
fn assert_shows(what: &str, text: &[u8], names: &[&str]) {
    assert_harmless(what, text);
    let text = String::from_utf8_lossy(text);
    for name in names {
        assert!(text.contains(name), "{what} lacks {name}: {text}");
    }
}

fn run(args: &[&str], input: &str) -> Output {
    let mut child = exoprof()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Starts the program under these names.
fn target(folder: &Path) -> Target {
    let path = folder.join(FILE);
    let done = Command::new("objcopy")
        .args(["--strip-debug", &format!("--redefine-sym=heavy_a={FUNCTION}")])
        .args([&programs::SHARES.path(), &path])
        .output()
        .expect("objcopy");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut target = Target::spawn_command(Command::new(&path));
    target.go(600_000);
    target
}

#[test]
fn names_reach_nobody_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let target = target(folder.path());
    let pid = target.pid().to_string();

    let recorder = Recorder::of(target.pid()).args(["-vv", "-d", "2s", "-F", "499"]);
    let recording = recorder.run().recording();
    let profile = &recording.profile;
    assert!(profile.sum("cpu", |s| s.has(FUNCTION)) > 0, "{}", profile.describe(9, |_| true));
    assert!(profile.mappings.iter().any(|m| m.file.ends_with(FILE)));
    assert_shows("record", recording.stderr.as_bytes(), &[FILE_SHOWN, FUNCTION_SHOWN]);

    let file = folder.path().join("names.pb.gz");
    let file = file.to_str().unwrap();
    run(&["record", "-q", "-p", &pid, "-d", "1s", "-F", "499", "-o", file], "");
    reports(file, folder.path());

    for args in [&["dump", "-p", &pid][..], &["dump", "-p", &pid, "--group"]] {
        let output = run(args, "");
        assert_harmless("dump", &output.stdout);
        assert_harmless("dump", &output.stderr);
    }
    assert_shows("doctor", &run(&["doctor", "-p", &pid], "").stdout, &[FILE_SHOWN]);
    serves(&target);
    let _ = target.finish();
}

fn reports(file: &str, folder: &Path) {
    for (report, names) in [
        (&["--top"][..], &[FILE_SHOWN, FUNCTION_SHOWN][..]),
        (&["--tree"], &[FUNCTION_SHOWN]),
        (&["--peek", "."], &[FUNCTION_SHOWN]),
        (&["--traces"], &[FILE_SHOWN, FUNCTION_SHOWN]),
        (&["--tags"], &[FILE_SHOWN]),
        (&["--raw"], &[FILE_SHOWN, FUNCTION_SHOWN]),
        (&["--list", "."], &[]),
        (&["--collapsed"], &[FUNCTION_SHOWN]),
        // In JSON, the backslash of an escape is doubled.
        (&["--speedscope", "-"], &[r"heavy\\nerr\\x1b[31m"]),
        (&["--firefox", "-"], &[r"heavy\\nerr\\x1b[31m"]),
    ] {
        let output = run(&[&["report"], report, &[file]].concat(), "");
        assert_shows(&report.join(" "), &output.stdout, names);
        assert_harmless(report[0], &output.stderr);
    }
    for name in ["a.html", "a.svg"] {
        let path = folder.join(name);
        run(&["report", "-q", "--flamegraph", path.to_str().unwrap(), file], "");
        assert_harmless(name, &std::fs::read(path).unwrap());
    }
    let commands = "top\ntree\ntraces\ntags\no\ntagfocus=process=e\\nerr.*\ntop\nquit\n";
    let output = run(&["view", file], commands);
    assert_shows("view", &output.stdout, &[FILE_SHOWN, FUNCTION_SHOWN]);
    assert_harmless("view", &output.stderr);
}

fn serves(target: &Target) {
    let pid = target.pid();
    let mut server = Server::start(&["-v", "-p", &pid.to_string()]);
    for (path, names) in [
        ("/", &[FILE_SHOWN][..]),
        ("/?format=json", &[r"e\nerr\u001b[m\u009b\u202e"]),
        ("/debug/pprof/", &[FILE_SHOWN]),
        ("/debug/pprof/goroutine?debug=1", &[]),
        ("/debug/pprof/goroutine?debug=2", &[FILE_SHOWN]),
        ("/debug/pprof/threadcreate?seconds=1&debug=1", &[]),
        ("/debug/pprof/nothing", &[]),
        ("/debug/pprof/block?seconds=1&debug=1", &[]),
    ] {
        let answer = server.get(path);
        assert_shows(path, &answer.body, names);
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    for line in server.all_lines() {
        assert_harmless("serve", line.as_bytes());
        assert!(!line.starts_with("err"), "{line}");
    }
}

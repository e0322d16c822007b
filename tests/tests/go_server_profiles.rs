//! Compares our profiles of Debian's prometheus and etcd (an old Go, stripped,
//! position-independent) with the profiles that both serve themselves, as `go tool pprof` shows
//! them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use exoprof_tests::gotool::{pprof, top};
use exoprof_tests::recorder::exoprof;
use exoprof_tests::server::{Background, free_port};
use exoprof_tests::{Profile, Recorder, Recording, record};

/// The body of an answer with status 200.
fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let good = String::from_utf8_lossy(&answer[..end]).contains(" 200 ");
    good.then(|| answer[end + 4..].to_vec())
}

fn prometheus(folder: &Path) -> (Background, u16) {
    let config = folder.join("prometheus.yml");
    std::fs::write(&config, "global:\n  scrape_interval: 1h\n").unwrap();
    let port = free_port();
    let mut server = Background::start(
        Command::new("/usr/bin/prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
    );
    server.wait_until("ready", || get(port, "/-/ready").is_some());
    (server, port)
}

fn etcd(folder: &Path) -> (Background, u16) {
    let (port, peer) = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{port}");
    let mut server = Background::start(
        Command::new("/usr/bin/etcd")
            .arg("--enable-pprof")
            .args(["--data-dir", &folder.display().to_string()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}")),
    );
    server.wait_until("ready", || get(port, "/health").is_some());
    (server, port)
}

fn theirs(port: u16, kind: &str) -> (Profile, tempfile::NamedTempFile) {
    let bytes = get(port, &format!("/debug/pprof/{kind}")).expect("its own profile");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    (Profile::decode_foreign(&bytes), file)
}

/// The first value of each stack, by functions and lines.
fn stacks(profile: &Profile) -> BTreeMap<Vec<String>, i64> {
    let mut all = BTreeMap::new();
    for s in &profile.samples {
        // Go 1.19 truncates stacks at 32 frames.
        let frames = s.stack.iter().take(32).map(|f| format!("{}:{}", f.function, f.line));
        *all.entry(frames.collect()).or_default() += s.values[0];
    }
    all
}

/// The share of `a` that is also in `b`.
fn common(a: &BTreeMap<Vec<String>, i64>, b: &BTreeMap<Vec<String>, i64>) -> f64 {
    let both: i64 = a.iter().map(|(k, v)| v.min(b.get(k).unwrap_or(&0))).sum();
    both as f64 / a.values().sum::<i64>() as f64
}

/// Compares the output of `go tool pprof -top` for two profiles: functions with a large share of
/// theirs have about the same share of ours, within `points`.
#[track_caller]
fn assert_same_top(ours: &Recording, theirs: &Path, points: f64) {
    let (a, b) = (top(&ours.path), top(theirs));
    let cum = |rows: &[exoprof_tests::gotool::TopRow], f: &str| {
        rows.iter().find(|r| r.function == f).map_or(0.0, |r| r.cum)
    };
    for row in b.iter().filter(|r| r.cum > 10.0) {
        let here = cum(&a, &row.function);
        assert!(
            (here - row.cum).abs() <= points,
            "{}: ours {here}, theirs {}",
            row.function,
            row.cum
        );
    }
    let header =
        |text: String| text.lines().find(|l| l.starts_with("Type: ")).expect("a type").to_owned();
    assert_eq!(header(pprof(&["-top"], &ours.path)), header(pprof(&["-top"], theirs)));
}

fn compare(server: &mut Background, port: u16) {
    let pid = server.pid();
    // Each request for the program's own profile starts and ends goroutines, and timers wake some;
    // nine in ten are idle. That does not hold for a server that is still starting, which shows in
    // its own profiles before and after.
    let mut attempts = 0;
    let (recording, their_profile, their_file) = loop {
        let (before, their_file) = theirs(port, "goroutine");
        let recording = record(pid, &["goroutine"]);
        let after = stacks(&theirs(port, "goroutine").0);
        let own = stacks(&before);
        attempts += 1;
        if common(&own, &after).min(common(&after, &own)) >= 0.95 {
            break (recording, before, their_file);
        }
        assert!(attempts < 20, "it never becomes idle");
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    let (a, b) = (stacks(&recording.profile), stacks(&their_profile));
    assert!(common(&b, &a) >= 0.9, "goroutines: {:.3} of theirs", common(&b, &a));
    assert!(common(&a, &b) >= 0.9, "goroutines: {:.3} of ours", common(&a, &b));
    assert_same_top(&recording, their_file.path(), 10.0);

    // The heap's records are published by a garbage collection: request one before both; an idle
    // server makes no other one in between.
    let (their_profile, their_file) = theirs(port, "heap?gc=1");
    let recording = record(pid, &["heap"]);
    assert_eq!(recording.profile.period, 512 << 10);
    let (a, b) = (stacks(&recording.profile), stacks(&their_profile));
    assert!(common(&b, &a) >= 0.95, "heap: {:.3} of theirs", common(&b, &a));
    assert!(common(&a, &b) >= 0.95, "heap: {:.3} of ours", common(&a, &b));
    assert_same_top(&recording, their_file.path(), 5.0);

    let recording = record(pid, &["threadcreate"]);
    assert!(recording.profile.total("threadcreate") >= 3);

    // Neither program samples its waits, so its own block profile has only what it recorded while
    // we set the rate.
    let args = ["block", "--block-rate", "1", "-d", "10m"];
    let mut running = Recorder::of(pid).args(args).start();
    running.wait_waiting();
    for _ in 0..20 {
        get(port, "/debug/pprof/goroutine?debug=1").expect("an answer");
    }
    let (their_profile, _) = theirs(port, "block");
    running.signal(nix::sys::signal::Signal::SIGINT);
    let ours = running.finish().recording().profile;
    let (a, b) = (stacks(&ours), stacks(&their_profile));
    assert!(!b.is_empty(), "its own profile lacks what we made it record");
    assert!(common(&b, &a) >= 0.9, "block: {:.3} of theirs", common(&b, &a));
    let (after, _) = theirs(port, "block");
    get(port, "/metrics").expect("an answer");
    let (later, _) = theirs(port, "block");
    assert_eq!(stacks(&after), stacks(&later), "the rate is 0 again");
    server.assert_running();

    let output = exoprof().args(["dump", "-p", &pid.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("goroutine 1 ["));
}

#[test]
fn prometheus_profiles_match_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, port) = prometheus(folder.path());
    compare(&mut server, port);
}

#[test]
fn etcd_profiles_match_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, port) = etcd(folder.path());
    compare(&mut server, port);
}

//! Tests of who may ask `exoprof serve`: two users on one machine, over loopback and a unix socket.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use exoprof_tests::http::{Request, Server};
use exoprof_tests::recorder::exoprof;
use exoprof_tests::server::{Background, open_folder};
use exoprof_tests::{Profile, Target, programs};

/// Another user than root.
const OTHER: u32 = 65_534;

/// The status and body that curl gets as the other user.
fn curl_as_other(args: &[&str]) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.uid(OTHER).gid(OTHER).args(["-sS", "--max-time", "60", "-w", "\n%{http_code}"]);
    let output = curl.args(args).output().expect("curl; run scripts/setup-tests");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().unwrap_or_else(|_| panic!("{output:?}")), body.to_string())
}

#[track_caller]
fn assert_refused((status, body): &(u16, String)) {
    assert_eq!(*status, 403, "{body}");
    assert!(body.contains("--allow-peer") && body.lines().count() == 1, "{body}");
}

fn sleep_of_other() -> Background {
    let mut command = Command::new("sleep");
    Background::start(command.arg("600").uid(OTHER).gid(OTHER))
}

#[test]
fn other_users_only_get_their_own_processes() {
    let target = Target::working(programs::SHARES, &[]);
    let own = sleep_of_other();
    let server = Server::start(&[]);
    for (endpoint, pid) in ["", "cmdline", "profile?seconds=1", "symbol?0x1", "goroutine?debug=2"]
        .map(|endpoint| (endpoint, target.pid()))
    {
        let url = server.url(&format!("/pid/{pid}/debug/pprof/{endpoint}"));
        assert_refused(&curl_as_other(&[&url]));
    }
    assert_eq!(server.perf_events(), 0);
    // The reason why there is nothing to profile would include the name.
    let mut exited = Command::new("true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", exited.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let of_exited = server.url(&format!("/pid/{}/debug/pprof/cmdline", exited.id()));
    assert_refused(&curl_as_other(&[&of_exited]));
    exited.wait().unwrap();
    let of_own = server.url(&format!("/pid/{}/debug/pprof/cmdline", own.pid()));
    assert_eq!(curl_as_other(&[&of_own]), (200, "sleep\x00600".into()));
    let of_root = format!("/pid/{}/", target.pid());
    for path in ["/", "/?format=json", "/?format=http_sd"] {
        let (status, list) = curl_as_other(&[&server.url(path)]);
        assert_eq!(status, 200, "{list}");
        assert!(list.contains(&format!("/pid/{}", own.pid())), "{list}");
        assert!(!list.contains(of_root.trim_end_matches('/')), "{list}");
        // Root sees both.
        let list = server.get(path).text();
        assert!(list.contains(&format!("/pid/{}", own.pid())), "{list}");
        assert!(list.contains(of_root.trim_end_matches('/')), "{list}");
    }
    let single = Server::of(target.pid());
    assert_refused(&curl_as_other(&[&single.url("/debug/pprof/cmdline")]));
    assert_eq!(single.get("/debug/pprof/cmdline").status, 200);
    let _ = target.finish();
}

#[test]
fn a_process_that_becomes_roots_during_a_recording_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = open_folder();
    let set_uid = folder.path().join("sleep");
    std::fs::copy("/bin/sleep", &set_uid).unwrap();
    std::fs::set_permissions(&set_uid, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let go = folder.path().join("go");
    let mut command = Command::new("sh");
    command.args(["-c", "until [ -e \"$1\" ]; do sleep 0.1; done; exec \"$0\" 600"]);
    let target = Background::start(command.arg(&set_uid).arg(&go).uid(OTHER).gid(OTHER));
    let server = Server::start(&[]);
    let url = server.url(&format!("/pid/{}/debug/pprof/profile?seconds=4", target.pid()));
    let answer = std::thread::spawn(move || curl_as_other(&[&url]));
    server.wait_recording(true);
    std::fs::write(&go, "").unwrap();
    assert_refused(&answer.join().unwrap());
    let status = std::fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t0\t"), "{status}");
}

/// A child may be another user's program, such as `sudo`, and nobody looks at it afterwards.
#[test]
fn children_are_recorded_for_root_only() {
    let script = "while :; do head -c 9000000 /dev/zero | md5sum >/dev/null; done";
    let shell = Background::start(Command::new("sh").args(["-c", script]).uid(OTHER).gid(OTHER));
    let (pid, server) = (shell.pid().to_string(), Server::start(&[]));
    let path = format!("/pid/{pid}/debug/pprof/profile?seconds=2&hz=997");
    let of_children = |bytes: &[u8]| {
        let profile = Profile::decode(bytes);
        // A profile of a single process does not name it in each sample.
        profile.samples.iter().filter(|s| !["", &pid].contains(&s.label("pid"))).count()
    };
    let mut curl = Command::new("curl");
    let curl = curl.uid(OTHER).gid(OTHER).args(["-sSf", "--max-time", "60", &server.url(&path)]);
    let output = curl.output().expect("curl; run scripts/setup-tests");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(of_children(&output.stdout), 0);
    assert!(of_children(&server.get(&path).body) > 0);
}

#[test]
fn rules_and_tokens_admit_other_users() {
    let target = Target::working(programs::SHARES, &[]);
    let pid = target.pid().to_string();
    for peer in ["any", "65534", "nobody", "nogroup"] {
        let server = Server::start(&["-p", &pid, "--allow-peer", "root", "--allow-peer", peer]);
        let (status, body) = curl_as_other(&[&server.url("/debug/pprof/cmdline")]);
        assert_eq!(status, 200, "{peer}: {body}");
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let server = Server::start(&["-p", &pid, "--token-file", token.to_str().unwrap()]);
    let url = server.url("/debug/pprof/cmdline");
    assert_eq!(curl_as_other(&[&url]).0, 401);
    assert_eq!(curl_as_other(&["-H", "Authorization: Bearer s3cret", &url]).0, 200);
    let _ = target.finish();
}

#[test]
fn a_server_that_became_another_user_does_not_trust_that_user() {
    let target = Target::working(programs::SHARES, &[]);
    let pid = target.pid().to_string();
    let server = Server::start(&["-p", &pid, "--user", "nobody"]);
    // Other programs run as nobody, too.
    assert_refused(&curl_as_other(&[&server.url("/debug/pprof/cmdline")]));
    assert_eq!(server.get("/debug/pprof/cmdline").status, 200);
    let _ = target.finish();
}

#[test]
fn a_unix_socket_tells_its_peer() {
    use std::os::unix::fs::PermissionsExt as _;
    let target = Target::working(programs::SHARES, &[]);
    let folder = open_folder();
    for (group, status) in [(None, 403), (Some("nogroup"), 200)] {
        let path = folder.path().join("s");
        let mut command = exoprof();
        command.args(["serve", "-p", &target.pid().to_string()]);
        command.arg("--listen").arg(format!("unix:{}", path.display()));
        command.args(group.map(|group| ["--socket-group", group]).into_iter().flatten());
        let _server = Server::start_command(command);
        // The administrator opens the file; that alone admits nobody.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let url = "http://localhost/debug/pprof/cmdline";
        let answer = curl_as_other(&["--unix-socket", path.to_str().unwrap(), url]);
        assert_eq!(answer.0, status, "{group:?}: {}", answer.1);
        assert_eq!(Request::get("/debug/pprof/cmdline").send_unix(&path).status, 200);
    }
    let _ = target.finish();
}

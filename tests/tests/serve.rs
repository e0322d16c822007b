//! Tests of `exoprof serve`: pprof's endpoints, with well-formed and with malformed requests.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use exoprof_tests::http::{Request, Response, Server};
use exoprof_tests::procfs::{State, status};
use exoprof_tests::recorder::{exoprof, without_tracefs};
use exoprof_tests::{Profile, Target, programs};
use nix::sys::signal::Signal;

fn shares() -> Target {
    Target::working(programs::SHARES, &[])
}

#[track_caller]
fn profile_of(response: &Response) -> Profile {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    Profile::decode(&response.body)
}

#[test]
fn endpoints_of_one_process() {
    let target = shares();
    let server = Server::of(target.pid());
    let index = server.get("/debug/pprof/");
    assert_eq!(index.header("content-type"), Some("text/html; charset=utf-8"));
    for word in
        ["<title>/debug/pprof/", "profile?debug=1", "cmdline", "symbol", "trace", "shares ("]
    {
        assert!(index.text().contains(word), "no {word:?} in {}", index.text());
    }
    assert_eq!(server.get("/debug/pprof").header("location"), Some("/debug/pprof/"));
    let response = server.get("/debug/pprof/profile?seconds=1&hz=499");
    assert_eq!(response.header("content-disposition"), Some("attachment; filename=\"profile\""));
    let profile = profile_of(&response);
    assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0, "{}", profile.describe(4, |_| true));
    assert_eq!(profile.period, 1_000_000_000 / 499);
    // ±0.5 s: the machine may be busy. What counts is that it is neither 30 s nor 0.
    assert!((0.5e9..1.5e9).contains(&(profile.duration_nanos as f64)));
    let path = programs::SHARES.path();
    assert_eq!(server.get("/debug/pprof/cmdline").text(), path.to_str().unwrap());
    let same = server.get(&format!("/pid/{}/debug/pprof/cmdline", target.pid()));
    assert_eq!(same.text(), path.to_str().unwrap());
    let list = server.get("/").text();
    assert!(list.contains(&format!("/pid/{}/debug/pprof/", target.pid())), "{list}");
    let _ = target.finish();
}

/// The number of threads on the index page.
fn threads_in_index(server: &Server) -> i64 {
    let index = server.get("/debug/pprof/").text();
    let (before, _) = index.split_once("</td><td><a href='threadcreate?debug=1'>").unwrap();
    before.rsplit_once("<td>").unwrap().1.parse().unwrap()
}

/// A program that does not handle EINTR must not notice that it is scraped every few seconds.
#[test]
fn without_a_stop() {
    let mut target = Target::working(programs::RESTLESS, &["4"]);
    let server = Server::start(&["-p", &target.pid().to_string(), "--no-stop"]);
    let before = target.mark();
    for _ in 0..5 {
        let profile = profile_of(&server.get("/debug/pprof/goroutine"));
        assert_eq!(profile.total("goroutine"), 5);
        assert!(profile.comments.iter().any(|c| c.contains("no thread was stopped")));
        let text = server.get("/debug/pprof/goroutine?debug=2").text();
        assert_eq!(text.matches("thread restless]").count(), 5, "{text}");
        assert!(server.get("/debug/pprof/goroutine?debug=1").text().contains("total 5"));
    }
    server.get("/debug/pprof/wall?seconds=1").assert_fails(501, &["--no-stop forbids"]);
    // All threads but the main thread, which no thread created.
    assert_eq!(threads_in_index(&server), 4);
    let created = profile_of(&server.get("/debug/pprof/threadcreate?seconds=1"));
    assert_eq!(created.total("threadcreate"), 4);
    assert_eq!(target.mark().since(&before).ns("eintr"), 0);
}

#[test]
fn invalid_requests_fail() {
    let target = shares();
    let server = Server::of(target.pid());
    server.get("/debug/pprof/nothing").assert_fails(404, &["Unknown profile"]);
    server.get("/debug/pprof/trace").assert_fails(501, &["trace"]);
    server.get("/debug/pprof/profile?seconds=601").assert_fails(400, &["--max-duration"]);
    server.get("/debug/pprof/profile?hz=0").assert_fails(400, &["hz"]);
    for wrong in ["0", "-1", "x", "1.5", "99999999999999999999"] {
        let path = format!("/debug/pprof/profile?seconds={wrong}");
        server.get(&path).assert_fails(400, &["seconds", "positive integer"]);
    }
    server.get("/debug/pprof/profile?sec=1").assert_fails(400, &["unknown parameter", "sec"]);
    server.get("/debug/pprof/profile?partial=x").assert_fails(400, &["partial"]);
    server.get("/?fromat=json").assert_fails(400, &["unknown parameter", "fromat"]);
    server.get("/pid/1/debug/pprof/").assert_fails(404, &["not served"]);
    server.get("/pid/x/debug/pprof/").assert_fails(404, &["process id"]);
    server.get("/pid/-1/debug/pprof/").assert_fails(404, &["process id"]);
    server.get("/elsewhere").assert_fails(404, &["not found"]);
    let post = Request::post("/debug/pprof/profile", b"").send(server.address());
    post.assert_fails(405, &["POST"]);
    // A HEAD request is answered immediately, and nothing is recorded.
    let head = Request::get("/debug/pprof/profile").method("HEAD").send(server.address());
    assert_eq!((head.status, head.body.len(), server.perf_events()), (200, 0, 0));
    let _ = target.finish();
}

#[test]
fn go_tool_pprof_fetches() {
    let target = shares();
    let server = Server::of(target.pid());
    let fetch =
        |args: &[&str], path: &str| exoprof_tests::gotool::pprof(args, server.url(path).as_ref());
    let top = fetch(&["-top", "-seconds", "1"], "");
    assert!(top.contains("heavy_a") && top.contains("Type: cpu"), "{top}");
    let raw = fetch(&["-raw"], "/debug/pprof/profile?seconds=1");
    assert!(raw.contains("PeriodType: cpu nanoseconds") && raw.contains("heavy_a"), "{raw}");
    let path = format!("/pid/{}/debug/pprof/profile?seconds=1", target.pid());
    let traces = fetch(&["-traces"], &path);
    assert!(traces.contains("heavy_a"), "{traces}");
    let said = exoprof_tests::gotool::interactive(&server.url(&path), "top3\npeek heavy_a\n");
    assert!(said.contains("Showing top 3 nodes") && said.contains("truth_slice"), "{said}");
    // pprof shows the server's errors.
    let error = exoprof_tests::gotool::fails(&server.url("/debug/pprof/nothing"));
    assert!(error.contains("Unknown profile"), "{error}");
    let _ = target.finish();
}

#[test]
fn symbols_by_address() {
    let target = shares();
    let server = Server::of(target.pid());
    let profile = profile_of(&server.get("/debug/pprof/profile?seconds=1"));
    let frames = profile.samples.iter().flat_map(|s| &s.stack);
    let address = frames.into_iter().find(|f| f.is("heavy_a")).expect("heavy_a is hot").address;
    let wanted = format!("{address:#x} heavy_a\n");
    let post = Request::post("/debug/pprof/symbol", format!("{address:#x}+0x1").as_bytes());
    let answer = post.send(server.address());
    assert_eq!(answer.text(), format!("num_symbols: 1\n{wanted}"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let get = server.get(&format!("/debug/pprof/symbol?{address:#x}"));
    assert_eq!(get.text(), format!("num_symbols: 1\n{wanted}"));
    assert_eq!(server.get("/debug/pprof/symbol").text(), "num_symbols: 1\n");
    let _ = target.finish();
}

/// Serves one profile without its symbols, and forwards requests for `/symbol`.
fn nameless(profile: &[u8], to: std::net::SocketAddr) -> std::net::SocketAddr {
    let limits = pprof::Limits::default();
    let mut profile = pprof::decode_with(profile, &limits).expect("a profile");
    profile.locations.iter_mut().for_each(|l| l.lines.clear());
    for mapping in &mut profile.mappings {
        (mapping.has_functions, mapping.has_filenames) = (false, false);
        (mapping.has_line_numbers, mapping.has_inline_frames) = (false, false);
    }
    let mut file = Vec::new();
    pprof::write_gz(&profile, &mut file).expect("memory takes it");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (line, body) = exoprof_tests::http::read_request(&mut stream);
            let body = if line.contains("/debug/pprof/symbol") {
                Request::post("/debug/pprof/symbol", &body).send(to).body
            } else {
                file.clone()
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.into_bytes(), body].concat());
        }
    });
    address
}

#[test]
fn go_tool_pprof_requests_symbols() {
    let target = shares();
    let server = Server::of(target.pid());
    let response = server.get("/debug/pprof/profile?seconds=1");
    let _ = profile_of(&response);
    let source = nameless(&response.body, server.address());
    let url = format!("http://{source}/debug/pprof/profile");
    let top = exoprof_tests::gotool::pprof(&["-symbolize=remote", "-top"], url.as_ref());
    assert!(top.contains("heavy_a"), "{top}");
    let _ = target.finish();
}

#[test]
fn requests_share_a_recording() {
    let target = shares();
    let server = Server::start(&["-p", &target.pid().to_string(), "--max-recordings", "1"]);
    let path = "/debug/pprof/profile?seconds=2";
    let first = Request::get(path).begin(server.address());
    server.wait_recording(true);
    let others: Vec<_> = (0..49).map(|_| Request::get(path).begin(server.address())).collect();
    // Only one recording is allowed here, so all of these share it and any other fails.
    server.get("/debug/pprof/profile?seconds=3").assert_fails(503, &["limit"]);
    let first = Response::read(first);
    let _ = profile_of(&first);
    for other in others {
        let other = Response::read(other);
        assert!(other.status == 200 && other.body == first.body, "{}", other.status);
    }
    let _ = target.finish();
}

#[test]
fn the_last_client_to_disconnect_ends_the_recording() {
    let target = shares();
    let server = Server::of(target.pid());
    let before = State::of(target.pid());
    // One of two disconnects: the other's recording has its full length, whichever came first.
    let request = Request::get("/debug/pprof/profile?seconds=2");
    let first = request.begin(server.address());
    server.wait_recording(true);
    let second = request.begin(server.address());
    drop(first);
    let whole = profile_of(&Response::read(second));
    assert!(whole.duration_nanos >= 1_900_000_000, "{} ns", whole.duration_nanos);
    // All disconnect: the recording ends, long before its time.
    let request = Request::get("/debug/pprof/profile?seconds=300");
    let both = [request.begin(server.address()), request.begin(server.address())];
    server.wait_recording(true);
    drop(both);
    server.wait_recording(false);
    assert_eq!(State::of(target.pid()), before);
    // The limit is free again, and a new request starts a new recording.
    let _ = profile_of(&server.get("/debug/pprof/profile?seconds=1"));
    let _ = target.finish();
}

#[test]
fn recordings_that_need_too_much_memory_end_early() {
    // Stacks of this depth need megabytes; others need some hundred kilobytes.
    let target = Target::working(programs::RECURSION, &["small", "15000"]);
    let server = Server::start(&["-p", &target.pid().to_string(), "--max-memory", "1"]);
    let profile = profile_of(&server.get("/debug/pprof/profile?seconds=50&hz=499"));
    assert!(profile.duration_nanos < 45_000_000_000, "{}", profile.duration_nanos);
    assert!(profile.sum("cpu", |_| true) > 0);
    let _ = target.finish();
}

#[test]
fn an_exit_is_reported() {
    // One after the other: recordings of the CPU time of one process are exclusive.
    let killed_while = |path: &str| {
        let mut target = shares();
        let server = Server::of(target.pid());
        let asked = Request::get(path).begin(server.address());
        server.wait_recording(true);
        // Some CPU time shows that samples were taken.
        let mark = target.mark();
        while target.mark().since(&mark).total() < 300_000_000 {}
        target.kill();
        target.wait();
        (server, Response::read(asked))
    };
    let (_, whole) = killed_while("/debug/pprof/profile?seconds=300");
    whole.assert_fails(410, &["shares", "exited after"]);
    let (server, part) = killed_while("/debug/pprof/profile?seconds=300&partial=1");
    let partial = profile_of(&part);
    assert!(partial.sum("cpu", |s| s.has("heavy_a")) > 0);
    for path in ["/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/symbol?0x1"] {
        server.get(path).assert_fails(410, &["exited"]);
    }
    server.get("/debug/pprof/cmdline").assert_fails(410, &["exited"]);
    assert!(!server.get("/").text().contains("shares"));
}

#[test]
fn sigterm_delivers_the_current_recording() {
    let target = shares();
    let mut server = Server::of(target.pid());
    let running = Request::get("/debug/pprof/profile?seconds=300").begin(server.address());
    server.wait_recording(true);
    server.signal(Signal::SIGTERM);
    let _ = profile_of(&Response::read(running));
    assert_eq!(server.wait().code(), Some(0));
    let _ = target.finish();
}

#[test]
fn processes_are_selected_by_rules() {
    let target = shares();
    let other = Target::spawn(programs::SLEEPY, &[]);
    let server = Server::start(&["--allow", "name=shares,uid=0", "--allow", "name=nobody*"]);
    let (pid, hidden) = (target.pid(), other.pid());
    let list = server.get("/").text();
    assert!(list.contains(&format!("/pid/{pid}/debug/pprof/")), "{list}");
    assert!(!list.contains(&format!("/pid/{hidden}/debug/pprof/")), "{list}");
    let found = server.get("/?format=http_sd");
    assert_eq!(found.header("content-type"), Some("application/json"));
    assert!(found.text().contains(&format!("\"__profile_path_prefix__\":\"/pid/{pid}\"")));
    let profile = profile_of(&server.get(&format!("/pid/{pid}/debug/pprof/profile?seconds=1")));
    assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0);
    let refused = server.get(&format!("/pid/{hidden}/debug/pprof/cmdline"));
    refused.assert_fails(403, &["--allow"]);
    server.get("/debug/pprof/").assert_fails(404, &["/pid/PID"]);
    server.get("/pid/4194304/debug/pprof/").assert_fails(404, &["no such process"]);
    server.get("/pid/2/debug/pprof/").assert_fails(404, &["kernel thread"]);
    let _ = target.finish();
    server.get(&format!("/pid/{pid}/debug/pprof/")).assert_fails(410, &["exited"]);
    drop(other);
}

#[test]
fn unauthorized_requests_fail() {
    let target = shares();
    let pid = target.pid().to_string();
    let server = Server::of(target.pid());
    let evil = Request::get("/debug/pprof/cmdline").header("Host", "evil.example:6060");
    evil.send(server.address()).assert_fails(403, &["Host"]);
    let script = Request::get("/debug/pprof/cmdline").header("Sec-Fetch-Site", "cross-site");
    script.send(server.address()).assert_fails(403, &["sites"]);
    let origin = Request::get("/debug/pprof/cmdline").header("Origin", "http://evil.example");
    origin.send(server.address()).assert_fails(403, &["sites"]);

    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let token = token.to_str().unwrap();
    let guarded = Server::start(&["-p", &pid, "--token-file", token]);
    guarded.get("/debug/pprof/cmdline").assert_fails(401, &["token"]);
    let with = |value: &str| {
        let request = Request::get("/debug/pprof/cmdline").header("Authorization", value);
        request.send(guarded.address()).status
    };
    assert_eq!((with("Bearer s3cret"), with("Bearer s3creT")), (200, 401));
    let url = guarded.url("/debug/pprof/profile?seconds=1");
    let url = url.replace("http://", "http://pprof:s3cret@");
    let top = exoprof_tests::gotool::pprof(&["-top"], url.as_ref());
    assert!(top.contains("heavy_a"), "{top}");

    let open = exoprof().args(["serve", "-p", &pid, "--listen", "0.0.0.0:0"]).output().unwrap();
    let said = String::from_utf8_lossy(&open.stderr);
    assert!(open.status.code() == Some(2) && said.contains("--token-file"), "{said}");
    let _ = target.finish();
}

#[test]
fn a_unix_socket() {
    use std::os::unix::fs::PermissionsExt;
    let target = shares();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut command = exoprof();
    command.args(["serve", "-p", &target.pid().to_string()]);
    command.arg("--listen").arg(format!("unix:{}", path.display()));
    let mut server = Server::start_command(command);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let answer = Request::get("/debug/pprof/profile?seconds=1").send_unix(&path);
    assert!(profile_of(&answer).sum("cpu", |s| s.has("heavy_a")) > 0);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists());
    let _ = target.finish();
}

#[test]
fn capabilities_are_dropped() {
    let target = shares();
    let pid = target.pid().to_string();
    for user in [None, Some("nobody")] {
        let args: Vec<&str> = ["-p", &pid].into_iter().chain(user.map(|_| "--user")).collect();
        let server = Server::start(&[&args[..], &user.into_iter().collect::<Vec<_>>()].concat());
        let capabilities = u64::from_str_radix(&status(server.pid(), "CapEff"), 16).unwrap();
        // CAP_CHOWN, CAP_SETUID, CAP_NET_ADMIN, CAP_SYS_MODULE, CAP_SYS_ADMIN.
        for bit in [0, 7, 12, 16, 21] {
            assert_eq!(capabilities >> bit & 1, 0, "{bit} of {capabilities:x}");
        }
        assert_eq!(status(server.pid(), "NoNewPrivs"), "1");
        let is_root = status(server.pid(), "Uid").starts_with('0');
        assert_eq!(is_root, user.is_none());
        // Recording works as before: with kernel frames, names and source lines.
        let profile = profile_of(&server.get("/debug/pprof/profile?seconds=1&hz=499"));
        let mut frames = profile.samples.iter().flat_map(|s| &s.stack);
        assert!(frames.any(|f| f.is("heavy_a") && f.line > 0 && f.file.ends_with("shares.c")));
        assert!(profile.comments.iter().any(|c| c.contains("kernel stacks")), "{profile:?}");
    }
    let _ = target.finish();
}

/// Where tracefs is not mounted, the tracepoint's number is looked up before CAP_SYS_ADMIN is
/// dropped.
#[test]
fn threads_created_without_tracefs() {
    let target = shares();
    let mut command = exoprof();
    command.args(["serve", "--listen", "127.0.0.1:0", "-p", &target.pid().to_string()]);
    let server = Server::start_command(without_tracefs(&command));
    let profile = profile_of(&server.get("/debug/pprof/threadcreate?seconds=1"));
    assert_eq!(profile.sample_types, ["threadcreate/count"]);
    let _ = target.finish();
}

#[test]
fn malformed_requests_do_no_harm() {
    let target = shares();
    let server = Server::of(target.pid());
    // Slow clients never end their headers.
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").unwrap();
            stream
        })
        .collect();
    let raw = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The server may reject it before reading all of it.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_string()
    };
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    assert!(raw(long.as_bytes()).contains("431"), "{}", raw(long.as_bytes()));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert!(raw(many.as_bytes()).contains("431"), "{}", raw(many.as_bytes()));
    assert!(raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").contains("400"));
    assert_eq!(raw(b""), "");
    let huge =
        "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n";
    assert!(raw(huge.as_bytes()).contains("413"), "{}", raw(huge.as_bytes()));
    let profile = profile_of(&server.get("/debug/pprof/profile?seconds=1"));
    assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0);
    drop(slow);
    let _ = target.finish();
}

/// Answers for a Go program match those of its own endpoints.
#[test]
fn a_go_program() {
    use exoprof_tests::gotarget::{Build, GoTarget, LAST};
    let mut target = GoTarget::start(LAST, "truth", Build::Plain);
    let server = Server::of(target.pid());
    let rates = target.rates();
    let goroutines = profile_of(&server.get("/debug/pprof/goroutine"));
    assert_eq!(goroutines.sample_types, ["goroutine/count"]);
    let grouped = server.get("/debug/pprof/goroutine?debug=1").text();
    let total = goroutines.total("goroutine");
    assert!(total > 5 && grouped.starts_with(&format!("goroutine profile: total {total}\n")));
    let each = server.get("/debug/pprof/goroutine?debug=2");
    assert_eq!(each.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(each.text().starts_with("goroutine ") && each.text().contains("main.main()"));
    let index = server.get("/debug/pprof/").text();
    assert!(index.contains("<a href='heap?debug=1'>heap</a>"), "{index}");
    assert!(index.contains("goroutine?debug=2"), "{index}");
    let counted = format!("<td>{total}</td><td><a href='goroutine?debug=1'>");
    assert!(index.contains(&counted), "{index}");
    // The runtime's threads, including the first. One may start at any moment, so the three numbers
    // must be equal once.
    let counts = |target: &mut GoTarget| {
        let profile = profile_of(&server.get("/debug/pprof/threadcreate"));
        let own = target.own_profile("threadcreate");
        [threads_in_index(&server), profile.total("threadcreate"), own.total("threadcreate")]
    };
    let mut tries = (0..20).map(|_| counts(&mut target));
    assert!(tries.any(|[index, profile, own]| index == profile && profile == own));

    // It samples its own heap: the profile is served immediately and covers more than the last five
    // seconds.
    target.ask("alloc 1");
    target.ask("gc");
    let heap = profile_of(&server.get("/debug/pprof/heap"));
    let own = target.own_profile("heap");
    assert_eq!(heap.total("inuse_space"), own.total("inuse_space"));
    assert_eq!(heap.total("alloc_objects"), own.total("alloc_objects"));
    let text = server.get("/debug/pprof/heap?debug=1").text();
    assert!(text.starts_with("heap profile: ") && text.contains("@ heap/1048576\n"), "{text}");
    assert!(text.contains("\tmain."), "{text}");

    // It does not sample block and mutex profiles, so these are recorded for the requested time.
    let delta = Request::get("/debug/pprof/mutex?seconds=2").begin(server.address());
    target.wait_rates("the mutex profile is on", |r| r.mutex != 0);
    target.ask("contend 1");
    let delta = Response::read(delta);
    let disposition = "attachment; filename=\"mutex-delta\"";
    assert_eq!(delta.header("content-disposition"), Some(disposition));
    assert!(profile_of(&delta).total("contentions") > 0);
    assert_eq!(target.rates(), rates);
    let unchanged = profile_of(&server.get("/debug/pprof/goroutine?seconds=1"));
    assert_eq!(unchanged.total("goroutine"), 0, "{}", unchanged.describe(9, |_| true));
    for wrong in ["heap?seconds=1&debug=1", "heap?seconds=0", "heap?seconds=x"] {
        server.get(&format!("/debug/pprof/{wrong}")).assert_fails(400, &["seconds"]);
    }
    // A client that disconnects leaves nothing changed.
    let gone = Request::get("/debug/pprof/block?seconds=300").begin(server.address());
    target.wait_rates("the block profile is on", |r| r.block != 0);
    drop(gone);
    target.wait_rates("the block profile is off", |r| r == rates);
}

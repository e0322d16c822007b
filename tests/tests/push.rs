//! Tests of `exoprof serve --push`: what a profile store receives, and that no profile is lost.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use exoprof_tests::certificates::{Authority, Validity};
use exoprof_tests::grpc_store::{self, GrpcStore};
use exoprof_tests::http::Server;
use exoprof_tests::notes::note;
use exoprof_tests::quiet::Pressure;
use exoprof_tests::store::{Behaviour, Request, Store};
use exoprof_tests::{Profile, Target, programs};
use nix::sys::signal::Signal;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};
use tempfile::TempDir;

/// A server that pushes recordings of one second, unless the arguments set another interval.
struct Pushing {
    server: Server,
    spool: TempDir,
    pressure: Pressure,
}

fn pushing(url: &str, args: &[&str]) -> Pushing {
    pushing_with(url, args, exoprof_tests::exoprof())
}

fn pushing_with(url: &str, args: &[&str], mut command: Command) -> Pushing {
    let pressure = Pressure::start();
    let spool = tempfile::tempdir().unwrap();
    let folder = spool.path().to_str().unwrap();
    let interval =
        if args.contains(&"--push-interval") { &[][..] } else { &["--push-interval", "1s"] };
    let common = [&["--push", url, "--spool", folder], interval].concat();
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(common).args(args);
    let server = Server::start_command(command);
    Pushing { server, spool, pressure }
}

impl Pushing {
    /// The longest time between two recordings that holds no other one. Between two recordings, exoprof
    /// names functions and sends, for which it may have to wait for a CPU.
    fn longest_gap(&self) -> Duration {
        let waited = self.pressure.waited();
        if waited > Duration::from_secs(1) {
            note(&format!("somebody waited {waited:.1?} for a CPU: gaps may be as much longer"));
        }
        Duration::from_secs(1) + waited
    }

    /// Asserts that the next `many` profiles arrive once each, in order, and without a gap that could
    /// hold another recording.
    #[track_caller]
    fn assert_written_in_order(&self, store: &GrpcStore, pid: &str, many: usize) {
        let mut ends = Vec::new();
        for _ in 0..many {
            let profile = written(&write_raw_encoded(&store.next().message), pid);
            ends.push((profile.time_nanos, profile.time_nanos + profile.duration_nanos));
        }
        let longest = self.longest_gap().as_nanos() as i64;
        let follows = |w: &[(i64, i64)]| (0..longest).contains(&(w[1].0 - w[0].1));
        assert!(ends.windows(2).all(follows), "{ends:?}");
    }

    /// The same for Pyroscope's protocol, whose times are whole seconds.
    #[track_caller]
    fn assert_ingested_in_order(&self, store: &Store, many: usize) {
        let mut ends = Vec::new();
        for _ in 0..many {
            let (_, from, until) = ingested(&store.next());
            ends.push((from, until));
        }
        assert!(ends.is_sorted(), "{ends:?}");
        let longest = self.longest_gap().as_secs();
        assert!(ends.windows(2).all(|w| w[1].0 <= w[0].1 + longest), "{ends:?}");
    }

    /// The numbers of the messages in the spool.
    fn waiting(&self) -> Vec<u64> {
        let folders = std::fs::read_dir(self.spool.path()).unwrap().flatten();
        let files = folders.flat_map(|d| std::fs::read_dir(d.path()).unwrap().flatten());
        let names = files.map(|f| f.file_name().into_string().unwrap());
        let mut numbers: Vec<u64> =
            names.filter_map(|n| n.strip_suffix(".push")?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    fn wait_for(&self, messages: usize) -> Vec<u64> {
        let began = std::time::Instant::now();
        loop {
            let waiting = self.waiting();
            if waiting.len() >= messages {
                return waiting;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "only {waiting:?} wait");
            // A step of polling, not a wait for time to pass.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn shares() -> (Target, String) {
    let target = Target::working(programs::SHARES, &[]);
    let pid = target.pid().to_string();
    (target, pid)
}

/// Checks a message against what Pyroscope's `/ingest` accepts from its own clients.
#[track_caller]
fn ingested(request: &Request) -> (Profile, u64, u64) {
    assert!(request.target().starts_with("/ingest?"), "{}", request.target());
    // With a format, Pyroscope would read the whole body as the profile.
    assert_eq!(request.parameter("format"), None);
    assert_eq!(request.parameter("spyName").as_deref(), Some("exoprof"));
    let second = |name| request.parameter(name).unwrap().parse::<u64>().unwrap();
    let (from, until) = (second("from"), second("until"));
    assert!(from > 1_600_000_000 && from < until && until - from <= 30, "{from} {until}");
    let profile = Profile::decode(&request.part("profile").expect("a profile"));
    assert_eq!(profile.sample_types, ["samples/count", "cpu/nanoseconds"]);
    (profile, from, until)
}

#[test]
fn to_pyroscope() {
    let (target, pid) = shares();
    let store = Store::start(&[]);
    let url = format!("http://{}", store.address());
    let args = ["-p", &pid, "--push-label", "env=test", "--push-header", "X-Scope-OrgID: team"];
    let pushing = pushing(&url, &args);
    for _ in 0..2 {
        let request = store.next();
        let (profile, ..) = ingested(&request);
        assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0);
        let name = request.parameter("name").unwrap();
        let (_, labels) = name.split_once('{').unwrap();
        let labels: BTreeMap<_, _> =
            labels.trim_end_matches('}').split(',').filter_map(|l| l.split_once('=')).collect();
        assert_eq!((labels["env"], labels["pid"], labels["process"]), ("test", &*pid, "shares"));
        assert!(labels.contains_key("host"), "{name}");
        assert_eq!(request.header("x-scope-orgid"), Some("team"));
    }
    drop(pushing);
    let _ = target.finish();
}

/// Parca's public protobuf definition of the request.
fn write_raw_request() -> MessageDescriptor {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = protox::compile(["parca_writeraw.proto"], [folder]).expect("the definition");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("the definition is complete");
    let name = "parca.profilestore.v1alpha1.WriteRawRequest";
    pool.get_message_by_name(name).expect("the message")
}

/// Decodes the message from JSON; unknown fields are an error.
fn write_raw(json: &[u8]) -> DynamicMessage {
    let mut json = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize(write_raw_request(), &mut json);
    message.expect("a WriteRawRequest in JSON")
}

/// Decodes the message from protobuf; unknown fields are an error.
fn write_raw_encoded(bytes: &[u8]) -> DynamicMessage {
    fn check(message: &DynamicMessage) {
        assert_eq!(message.unknown_fields().count(), 0, "{message}");
        for (_, value) in message.fields() {
            let one = value.as_message().into_iter();
            let many = value.as_list().into_iter().flatten().filter_map(Value::as_message);
            one.chain(many).for_each(check);
        }
    }
    let message = DynamicMessage::decode(write_raw_request(), bytes);
    let message = message.expect("a WriteRawRequest");
    check(&message);
    message
}

#[test]
fn to_parca() {
    let (target, pid) = shares();
    let store = Store::start(&[]);
    let url = format!("parca+http://user:pass@{}", store.address());
    let pushing = pushing(&url, &["-p", &pid]);
    let request = store.next();
    assert_eq!(request.target(), "/api/profiles/writeraw");
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("authorization"), Some("Basic dXNlcjpwYXNz"));
    let profile = written(&write_raw(&request.body), &pid);
    assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0);
    drop(pushing);
    let _ = target.finish();
}

/// Checks a request against what Parca needs and returns its profile.
#[track_caller]
fn written(message: &DynamicMessage, pid: &str) -> Profile {
    let field = |m: &DynamicMessage, name: &str| m.get_field_by_name(name).unwrap().into_owned();
    let list = |m: &DynamicMessage, name: &str| -> Vec<DynamicMessage> {
        let list = field(m, name);
        let list = list.as_list().unwrap();
        list.iter().map(|v| v.as_message().unwrap().clone()).collect()
    };
    assert_eq!(field(message, "normalized").as_bool(), Some(false));
    let series = list(message, "series").remove(0);
    let labels = field(&series, "labels");
    let labels = list(labels.as_message().unwrap(), "labels");
    let labels: Vec<(String, String)> = labels
        .iter()
        .map(|l| {
            let text = |name| field(l, name).as_str().unwrap().to_string();
            (text("name"), text("value"))
        })
        .collect();
    assert!(labels.is_sorted(), "{labels:?}");
    assert!(labels.contains(&("__name__".into(), "process_cpu".into())), "{labels:?}");
    assert!(labels.contains(&("pid".into(), pid.into())), "{labels:?}");
    let sample = list(&series, "samples").remove(0);
    let raw = field(&sample, "raw_profile");
    Profile::decode(raw.as_bytes().unwrap())
}

const WRITE_RAW: &str = "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw";

#[test]
fn to_parca_by_grpc() {
    let (target, pid) = shares();
    let store = GrpcStore::start(&[]);
    let url = format!("grpc://user:pass@{}", store.address());
    let pushing = pushing(&url, &["-p", &pid, "--push-header", "X-Scope-OrgID: team"]);
    for _ in 0..2 {
        let call = store.next();
        assert_eq!(call.path, WRITE_RAW);
        let header = |name| call.headers.get(name).and_then(|v| v.to_str().ok());
        assert_eq!(header("authorization"), Some("Basic dXNlcjpwYXNz"));
        assert_eq!(header("x-scope-orgid"), Some("team"));
        let profile = written(&write_raw_encoded(&call.message), &pid);
        assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0);
    }
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_bad_grpc_connection_loses_nothing() {
    use grpc_store::Behaviour::{CutAfter, CutAnswer, Http, Status, Take};
    let (target, pid) = shares();
    // 400 bytes hold the connection preface, the headers and a part of the message.
    let bad = [CutAfter(10), CutAfter(400), CutAnswer, Status(14, "away"), Http(502), Take];
    let store = GrpcStore::start(&bad);
    let pushing = pushing(&format!("grpc://{}", store.address()), &["-p", &pid]);
    assert_eq!(pushing.wait_for(1)[0], 0);
    pushing.assert_written_in_order(&store, &pid, 3);
    drop(pushing);
    let _ = target.finish();
}

/// A temporary folder with an authority's certificate, a token and headers.
struct Secrets {
    folder: TempDir,
    authority: Authority,
}

impl Secrets {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        authority.write(&folder.path().join("ca.pem"));
        std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
        std::fs::write(folder.path().join("headers"), "X-Scope-OrgID: team\n\nX-Key: a: b\n")
            .unwrap();
        Self { folder, authority }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }
}

const HERE: &str = "127.0.0.1";

#[test]
fn to_parca_by_grpc_with_tls() {
    let (target, pid) = shares();
    let secrets = Secrets::new();
    let certificate = secrets.authority.server(HERE, Validity::Now, &["h2"]);
    let store = GrpcStore::start_tls(certificate, &[]);
    let (ca, token, headers) =
        (secrets.path("ca.pem"), secrets.path("token"), secrets.path("headers"));
    let args = ["-p", &pid, "--push-ca", &ca, "--push-token-file", &token];
    let args = [&args[..], &["--push-header-file", &headers]].concat();
    let pushing = pushing(&format!("grpcs://{}", store.address()), &args);
    for _ in 0..2 {
        let call = store.next();
        assert_eq!(call.path, WRITE_RAW);
        let header = |name| call.headers.get(name).and_then(|v| v.to_str().ok());
        assert_eq!(header("authorization"), Some("Bearer s3cret"));
        assert_eq!((header("x-scope-orgid"), header("x-key")), (Some("team"), Some("a: b")));
        let profile = written(&write_raw_encoded(&call.message), &pid);
        assert!(profile.sum("cpu", |s| s.has("heavy_a")) > 0);
    }
    drop(pushing);
    let _ = target.finish();
}

/// The system's authorities are those in the file that `SSL_CERT_FILE` names.
#[test]
fn authorities_of_the_system_are_trusted() {
    let (target, pid) = shares();
    let secrets = Secrets::new();
    let grpc = GrpcStore::start_tls(secrets.authority.server(HERE, Validity::Now, &["h2"]), &[]);
    let http = Store::start_tls(secrets.authority.server("localhost", Validity::Now, &[]), &[]);
    let mut command = exoprof_tests::exoprof();
    command.env("SSL_CERT_FILE", secrets.path("ca.pem")).env_remove("SSL_CERT_DIR");
    let user = format!("https://own:pass@localhost:{}", http.address().port());
    let args = ["-p", &pid, "--push", &user, "--push-token-file", &secrets.path("token")];
    let pushing = pushing_with(&format!("grpcs://{}", grpc.address()), &args, command);
    let call = grpc.next();
    let _ = written(&write_raw_encoded(&call.message), &pid);
    assert_eq!(call.headers["authorization"], "Bearer s3cret");
    let request = http.next();
    let _ = ingested(&request);
    // The user from the URL, sent once.
    let sent = request.head.lines().filter(|l| l.to_lowercase().starts_with("authorization:"));
    assert_eq!(sent.count(), 1, "{}", request.head);
    assert_eq!(request.header("authorization"), Some("Basic b3duOnBhc3M="));
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_wrong_certificate_is_reported_and_loses_nothing() {
    let (target, pid) = shares();
    let secrets = Secrets::new();
    let server = |name, validity| secrets.authority.server(name, validity, &["h2"]);
    // Each certificate in turn; the next one follows when the previous one was rejected.
    let wrong = [
        (Authority::new("another").server(HERE, Validity::Now, &["h2"]), "has an unknown issuer"),
        (Authority::new("ours").server(HERE, Validity::Now, &["h2"]), "is not signed by"),
        (server(HERE, Validity::Past), "has expired"),
        (server("elsewhere.test", Validity::Now), "is not valid for the host 127.0.0.1"),
        (server(HERE, Validity::Future), "is not valid yet"),
        (secrets.authority.server(HERE, Validity::Now, &["http/1.1"]), "does not speak HTTP/2"),
        (secrets.authority.server(HERE, Validity::Now, &[]), "does not speak HTTP/2"),
    ];
    let store = GrpcStore::start_tls(wrong[0].0.clone(), &[]);
    let ca = secrets.path("ca.pem");
    let url = format!("grpcs://{}", store.address());
    let mut pushing = pushing(&url, &["-p", &pid, "--push-ca", &ca]);
    let mut before = "";
    for (certificate, words) in wrong {
        store.show(certificate);
        if words != before {
            let line = pushing.server.wait_line(words);
            assert!(line.contains("; profiles wait in the spool"), "{line}");
        }
        before = words;
    }
    let waiting = pushing.wait_for(3);
    assert_eq!(waiting[0], 0);
    store.show(server(HERE, Validity::Now));
    pushing.assert_written_in_order(&store, &pid, waiting.len() + 1);
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_wrong_http_certificate_is_reported_and_loses_nothing() {
    let (target, pid) = shares();
    let secrets = Secrets::new();
    let server = |name, validity| secrets.authority.server(name, validity, &[]);
    let wrong = [
        (Authority::new("another").server(HERE, Validity::Now, &[]), "has an unknown issuer"),
        (server(HERE, Validity::Past), "has expired"),
        (server("elsewhere.test", Validity::Now), "is not valid for the host 127.0.0.1"),
    ];
    let store = Store::start_tls(wrong[0].0.clone(), &[]);
    let ca = secrets.path("ca.pem");
    let url = format!("https://{}", store.address());
    let mut pushing = pushing(&url, &["-p", &pid, "--push-ca", &ca]);
    for (certificate, words) in wrong {
        store.show(certificate);
        pushing.server.wait_line(words);
    }
    let waiting = pushing.wait_for(2);
    store.show(server(HERE, Validity::Now));
    pushing.assert_ingested_in_order(&store, waiting.len());
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_bad_tls_connection_loses_nothing() {
    use grpc_store::Behaviour::{CutAfter, CutAnswer, Http, Status, Take};
    let (target, pid) = shares();
    let secrets = Secrets::new();
    // As without TLS, 400 bytes of the TLS payload hold a part of the message.
    let bad = [CutAfter(10), CutAfter(400), CutAnswer, Status(14, "away"), Http(502), Take];
    let certificate = secrets.authority.server(HERE, Validity::Now, &["h2"]);
    let store = GrpcStore::start_tls(certificate, &bad);
    let ca = secrets.path("ca.pem");
    let url = format!("grpcs://{}", store.address());
    let pushing = pushing(&url, &["-p", &pid, "--push-ca", &ca]);
    pushing.assert_written_in_order(&store, &pid, 3);
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_server_without_tls_is_reported() {
    let (target, pid) = shares();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // HTTP servers answer an invalid request line this way.
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let ca = Secrets::new();
    let ca = ["-p", &pid, "--push-ca", &ca.path("ca.pem")];
    for scheme in ["grpcs", "https"] {
        let mut pushing = pushing(&format!("{scheme}://{address}"), &ca);
        pushing.server.wait_line("the server does not speak TLS");
    }
    let _ = target.finish();
}

#[test]
fn a_rejected_call_does_not_block_others() {
    let (target, pid) = shares();
    let refused = grpc_store::Behaviour::Status(3, "failed%20to parse");
    let store = GrpcStore::start(&[refused; 3]);
    let mut pushing = pushing(&format!("grpc://{}", store.address()), &["-p", &pid]);
    pushing.server.wait_line("shares: status 3 failed to parse");
    let _ = written(&write_raw_encoded(&store.next().message), &pid);
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn nothing_is_lost_while_the_store_is_away() {
    let (target, pid) = shares();
    let address = Store::start(&[]).address();
    // For a while nothing listens on this port.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_ne!(address, free);
    let pushing = pushing(&format!("http://{free}"), &["-p", &pid]);
    let waiting = pushing.wait_for(5);
    let store = Store::start_at(free, &[]);
    pushing.assert_ingested_in_order(&store, waiting.len());
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_bad_connection_loses_nothing() {
    let (target, pid) = shares();
    let store = Store::start(&[
        Behaviour::CutMessage,
        Behaviour::CutAnswer,
        Behaviour::Status(503),
        Behaviour::CutMessage,
    ]);
    let pushing = pushing(&format!("http://{}", store.address()), &["-p", &pid]);
    let first = pushing.wait_for(1)[0];
    assert_eq!(first, 0);
    let (_, from, mut until) = ingested(&store.next());
    let begun = from;
    for _ in 0..3 {
        let (_, from, end) = ingested(&store.next());
        assert!(from <= until + 1, "a gap from {until} to {from}");
        until = end;
    }
    assert!(until > begun);
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn a_rejected_message_does_not_block_others() {
    let (target, pid) = shares();
    let store = Store::start(&[Behaviour::Status(400); 3]);
    let mut pushing = pushing(&format!("http://{}", store.address()), &["-p", &pid]);
    pushing.server.wait_line("shares: 400");
    let _ = ingested(&store.next());
    drop(pushing);
    let _ = target.finish();
}

#[test]
fn processes_come_and_go() {
    let store = Store::start(&[]);
    let rule = ["--allow", "name=shares,uid=0", "--push-interval", "3s"];
    let url = format!("http://{}", store.address());
    let pushing = pushing(&url, &rule);
    let (mut target, pid) = shares();
    let of_target = || loop {
        let request = store.next();
        if request.parameter("name").unwrap().contains(&format!("pid={pid}")) {
            return ingested(&request);
        }
    };
    let _ = of_target();
    // Waits until well within the second recording.
    let mark = target.mark();
    while target.mark().since(&mark).total() < 700_000_000 {}
    // The recording up to its end must be sent too.
    target.kill();
    target.wait();
    let exit = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    loop {
        let (.., until) = of_target();
        if until >= exit.as_secs() {
            break;
        }
    }
    drop(pushing);
}

#[test]
fn sigterm_sends_the_current_recording() {
    let (mut target, pid) = shares();
    let store = Store::start(&[]);
    let url = format!("http://{}", store.address());
    let mut pushing = pushing(&url, &["-p", &pid, "--push-interval", "5m"]);
    pushing.server.wait_recording(true);
    // If the target got no CPU time, there would be nothing to send.
    let mark = target.mark();
    while target.mark().since(&mark).total() < 300_000_000 {}
    pushing.server.signal(Signal::SIGTERM);
    let _ = ingested(&store.next());
    assert_eq!(pushing.server.wait().code(), Some(0));
    assert!(pushing.waiting().is_empty());
    let _ = target.finish();
}

#[test]
fn the_next_server_sends_what_is_in_the_spool() {
    let (target, pid) = shares();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut first = pushing(&format!("http://{free}"), &["-p", &pid]);
    first.wait_for(2);
    first.server.signal(Signal::SIGTERM);
    assert_eq!(first.server.wait().code(), Some(0));
    let left = first.waiting();
    assert!(left.len() >= 2);
    let _ = target.finish();
    // The server needs a process to push anything; any process will do.
    let (other, pid) = shares();
    let store = Store::start_at(free, &[]);
    let folder = first.spool.path().to_str().unwrap();
    let url = format!("http://{free}");
    let second = Server::start(&["-p", &pid, "--push", &url, "--spool", folder]);
    for _ in &left {
        let _ = ingested(&store.next());
    }
    drop(second);
    let _ = other.finish();
}

#[test]
fn incomplete_or_unsafe_options_fail() {
    let command = |args: &[&str]| {
        let mut command = exoprof_tests::exoprof();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(args);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = command(&["--push", "http://127.0.0.1:1"]);
    assert!(code == Some(2) && said.contains("--allow"), "{said}");
    let (code, said) = command(&["-p", "1", "--push", "127.0.0.1:1"]);
    assert!(code == Some(2) && said.contains("http://"), "{said}");
    let own = std::process::id().to_string();
    let secrets = Secrets::new();
    let (token, ca) = (secrets.path("token"), secrets.path("ca.pem"));
    // 192.0.2.1 belongs to no host (RFC 5737); it is never contacted.
    for (args, words) in [
        (&["--push", "http://192.0.2.1", "--push-token-file", &token][..], "without TLS"),
        (&["--push", "grpc://192.0.2.1", "--push-header", "Authorization: x"], "without TLS"),
        (&["--push", "http://u:p@192.0.2.1:4040"], "--push-insecure"),
        (&["--push", "http://192.0.2.1", "--push-header-file", &secrets.path("headers")], "TLS"),
        (&["--push", "grpc://192.0.2.1", "--push-ca", &ca], "needs TLS"),
    ] {
        let (code, said) = command(&[&["-p", &own], args].concat());
        assert!(code == Some(2) && said.contains(words), "{args:?}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
    let (code, said) = command(&["-p", &own, "--push", "grpcs://192.0.2.1", "--push-ca", &token]);
    assert!(code == Some(1) && said.contains("contains no certificate"), "{said}");
    let url = ["--push", "http://127.0.0.1:1", "--push-types", "cpu,nothing"];
    let (code, said) = command(&[&["-p", &own], &url[..]].concat());
    assert!(code == Some(2) && said.contains("nothing"), "{said}");
}

//! Tests CPU profiles of Debian's prometheus and etcd under load: Go 1.19, stripped,
//! position-independent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use exoprof_tests::expect::{assert_reach, is_marked, reaches_root};
use exoprof_tests::server::{Background, free_port};
use exoprof_tests::{Profile, Sample, record_busy};

/// Whether the stack is complete, down to the root of a Go stack: a goroutine's or the scheduler's.
fn is_whole(s: &Sample) -> bool {
    let roots = ["runtime.goexit", "runtime.mcall", "runtime.mstart", "runtime.rt0_go"];
    let preempted = s.root().function == "runtime.morestack" && s.has("runtime.gopreempt_m");
    let at_root = preempted || roots.iter().any(|root| s.root().function == *root);
    !is_marked(s) && (reaches_root(s) || at_root)
}

/// Checks what must hold for any Go server.
fn check(profile: &Profile) {
    assert!(profile.total("samples") > 200, "{}", profile.describe(5, |_| true));
    assert_reach(profile, 0.99, "the root of Go's stack", is_whole);
    // Before Go 1.21 `systemstack` keeps no frame; only `g.sched` shows its caller.
    let after = |s: &Sample| {
        let at = s.position("runtime.systemstack")?;
        s.stack.get(at + 1).map(|f| f.function.clone())
    };
    let crossing = |s: &Sample| s.has("runtime.systemstack");
    let all = profile.sum("samples", crossing);
    // The function called there is a closure of the caller and named after it:
    // `runtime.gcBgMarkWorker.func2`.
    let right = |s: &Sample| {
        let Some(at) = s.position("runtime.systemstack") else { return false };
        let Some((inner, caller)) = at.checked_sub(1).map(|i| &s.stack[i]).zip(after(s)) else {
            return false;
        };
        let closure_of = inner.function.rsplit_once(".func").map(|(f, _)| f.to_owned());
        closure_of.is_none_or(|f| {
            s.stack[at + 1..].iter().take(4).any(|frame| frame.function == f) || f == caller
        })
    };
    let good = profile.sum("samples", |s| crossing(s) && right(s));
    assert!(all >= 5, "{all} samples on the system stack");
    let wrong = profile.describe(4, |s| crossing(s) && !right(s));
    assert!(good as f64 >= 0.97 * all as f64, "{good} of {all} with the right caller:\n{wrong}");
}

/// Sends requests continuously over several connections.
struct Load {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

impl Load {
    fn start(port: u16, request: &'static str) -> Self {
        let stop = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let work = |stop: std::sync::Arc<std::sync::atomic::AtomicBool>| {
            move || {
                let mut answered = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    answered += u64::from(ask(port, request).is_some());
                }
                answered
            }
        };
        let threads = (0..4).map(|_| std::thread::spawn(work(stop.clone()))).collect();
        Self { stop, threads }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.threads.into_iter().map(|t| t.join().expect("a load thread")).sum()
    }
}

/// The answer to a request, if its status is 200.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.").then_some(()).filter(|()| answer.contains(" 200 "))?;
    Some(answer)
}

fn recorded(server: &mut Background, load: Load) -> Profile {
    let profile = record_busy(server.pid(), 3.0, &["-F", "997"]).profile;
    server.assert_running();
    assert!(load.finish() > 50, "the load did not reach the server");
    profile
}

#[test]
fn prometheus_under_queries() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let configuration = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: self\n  static_configs:\n  \
         - targets: ['127.0.0.1:{port}']\n"
    );
    std::fs::write(&configuration, text).expect("a configuration");
    let mut server = Background::start(
        Command::new("/usr/bin/prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .env("GOGC", "20"),
    );
    let metrics = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    server.wait_until("answering", || ask(port, metrics).is_some());
    let load = Load::start(port, metrics);
    check(&recorded(&mut server, load));
}

#[test]
fn etcd_under_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let (port, peers) = (free_port(), free_port());
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let mut server = Background::start(
        Command::new("/usr/bin/etcd")
            .arg("--data-dir")
            .arg(folder.path())
            .args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)])
            .args(["--listen-peer-urls", &url(peers), "--initial-advertise-peer-urls", &url(peers)])
            .args(["--initial-cluster", &format!("default={}", url(peers))])
            .env("GOGC", "10"),
    );
    let metrics = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    server.wait_until("answering", || ask(port, metrics).is_some());
    let load = Load::start(port, metrics);
    check(&recorded(&mut server, load));
}

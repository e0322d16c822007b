//! Reads Debian's Prometheus and etcd: stripped, position-independent programs.
//!
//! They are built with Go 1.19, a version that the other tests do not cover.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::{ProcMemory, image_of};
use goruntime::{HeapView, Runtime, StackEnd, format_goroutines};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

/// Waits until the server responds.
fn wait_for(port: u16, path: &str) {
    for _ in 0..600 {
        if get(port, path).is_some() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no response at {path}");
}

/// The header and stack text of each goroutine, by id.
fn by_id(dump: &str) -> HashMap<u64, String> {
    dump.split("\n\n")
        .filter_map(|g| {
            let id = g.trim_start().strip_prefix("goroutine ")?.split(' ').next()?.parse().ok()?;
            Some((id, g.trim().to_owned()))
        })
        .collect()
}

fn compare(server: &Server, port: u16, name: &str) {
    let pid = server.0.id();
    let (image, bias) = image_of(pid);
    let memory = ProcMemory::open(pid);
    let runtime = Runtime::find(&image, bias, &memory).expect("a Go runtime");
    assert_eq!(runtime.version().minor, 19);

    let theirs = by_id(&get(port, "/debug/pprof/goroutine?debug=2").expect("a dump"));
    let mut reader = runtime.goroutine_reader(&memory, true);
    let list = reader.list().expect("goroutines");
    let mut stacks = list.goroutines.iter().filter_map(|g| g.stack.as_ref().ok());
    assert!(stacks.all(|s| s.end == StackEnd::Complete), "{name}: incomplete stacks");
    let ours = by_id(&format_goroutines(&runtime, &list.goroutines, 0));
    let both = || theirs.iter().filter_map(|(id, text)| Some((ours.get(id)?, text)));
    let same = both().filter(|(a, b)| a == b).count();
    eprintln!("{name}: {} of theirs, {} of ours, {same} equal", theirs.len(), ours.len());
    // The server keeps running, so goroutines that serve the request or that a timer wakes differ.
    // All others must be equal.
    assert!(same >= 20 && same * 100 >= theirs.len() * 85, "{name}: {same} of {}", theirs.len());

    let heap = runtime.heap_profile(&memory, HeapView::Published).expect("a heap profile");
    assert_eq!((heap.rate, heap.implausible), (512 << 10, 0), "{name}");
    let server_frames = heap.records.iter().filter(|r| {
        let frames = runtime.recorded_frames(&r.stack);
        !frames.is_empty() && frames.iter().all(|f| f.position.is_some())
    });
    assert_eq!(server_frames.count(), heap.records.len(), "{name}: every stack has names");
    runtime.block_profile(&memory).expect("a block profile");
    runtime.mutex_profile(&memory).expect("a mutex profile");
    assert!(!runtime.threads(&memory).expect("threads").is_empty());
    runtime.heap_rate_permit(&memory).expect("a permit");
    runtime.block_rate_permit(&memory).expect("a permit");
    runtime.mutex_rate_permit(&memory).expect("a permit");
}

fn quiet(command: &mut Command) -> Server {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    Server(
        command
            .spawn()
            .expect("Debian's prometheus and etcd-server are missing; fix: scripts/setup-tests"),
    )
}

#[test]
fn prometheus_matches_its_own_profiles() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    std::fs::write(&config, "global:\n  scrape_interval: 1h\n").expect("a configuration");
    let port = free_port();
    let server = quiet(
        Command::new("/usr/bin/prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
    );
    wait_for(port, "/-/ready");
    compare(&server, port, "prometheus");
}

#[test]
fn etcd_matches_its_own_profiles() {
    let folder = tempfile::tempdir().expect("a folder");
    let (port, peer) = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{port}");
    let server = quiet(
        Command::new("/usr/bin/etcd")
            .arg("--enable-pprof")
            .args(["--data-dir", &folder.path().display().to_string()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}")),
    );
    wait_for(port, "/health");
    compare(&server, port, "etcd");
}

//! Tests that recording disturbs nothing: a busy multi-threaded server answers every request while
//! exoprof attaches and detaches 200 times or is killed, and its state is unchanged afterwards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use exoprof_tests::procfs::State;
use exoprof_tests::programs;
use exoprof_tests::{Recorder, Target};
use nix::sys::signal::Signal;

/// Clients that send numbered requests and check every answer.
struct Load {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(port: u16, clients: u64) -> Self {
        let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..clients)
            .map(|client| {
                let (ends, answered) = (Arc::clone(&ends), Arc::clone(&answered));
                std::thread::spawn(move || ask(port, client, &ends, &answered))
            })
            .collect();
        let load = Self { ends, answered, clients };
        load.wait_answers(1000);
        load
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    fn wait_answers(&self, more: u64) {
        let goal = self.answered() + more;
        while self.answered() < goal {
            assert!(self.clients.iter().any(|c| !c.is_finished()), "every client has failed");
            std::thread::yield_now();
        }
    }

    fn finish(self) -> u64 {
        self.ends.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("a client does not panic").expect("every request is answered");
        }
        self.answered.load(Ordering::SeqCst)
    }
}

/// The timeout of 30 s does not measure speed: an answer that late counts as lost.
fn ask(port: u16, client: u64, ends: &AtomicBool, answered: &AtomicU64) -> Result<(), String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|e| e.to_string())?;
    let mut number = 0_u64;
    while !ends.load(Ordering::SeqCst) {
        let mut request = [0; 16];
        request[..8].copy_from_slice(&client.to_le_bytes());
        request[8..].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&request).map_err(|e| format!("request {number}: {e}"))?;
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).map_err(|e| format!("answer {number}: {e}"))?;
        if answer != request.map(|byte| byte.wrapping_add(1)) {
            return Err(format!("answer {number} is wrong: {answer:?}"));
        }
        number += 1;
        answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn server() -> (Target, Load, State) {
    let server = Target::spawn(programs::SERVER, &["4"]);
    let port = server.given("port").parse().unwrap();
    let load = Load::start(port, 8);
    let state = State::of(server.pid());
    assert!(state.is_free());
    (server, load, state)
}

#[test]
fn two_hundred_recordings() {
    let (server, load, before) = server();
    for round in 0..200 {
        let outcome = Recorder::of(server.pid()).args(["-d", "50ms", "-F", "997", "-q"]).run();
        assert!(outcome.status.success(), "round {round}: {outcome}");
        assert_eq!(State::of(server.pid()), before, "after round {round}");
    }
    load.wait_answers(1000);
    let answered = load.finish();
    assert!(answered > 2000);
    let _ = server.finish();
}

/// exoprof is killed at moments spread over starting, attaching and recording.
#[test]
fn exoprof_killed_in_the_middle() {
    let (server, load, before) = server();
    for round in 0..40_u64 {
        let mut running = Recorder::of(server.pid()).args(["-d", "10m", "-F", "997"]).start();
        if round % 2 == 0 {
            running.wait_recording();
        }
        // A moment that depends on the server's work, not on the clock.
        load.wait_answers(round * 7);
        running.signal(Signal::SIGKILL);
        let outcome = running.finish();
        assert_eq!(outcome.files(), Vec::<String>::new(), "round {round}");
        assert_eq!(State::of(server.pid()), before, "after round {round}");
    }
    load.wait_answers(1000);
    load.finish();
    // It can still be recorded, and exoprof left nothing behind.
    let recording = Recorder::of(server.pid()).args(["-d", "300ms"]).run().recording();
    assert!(recording.status.success());
    let _ = server.finish();
}

/// Two recorders at once do not disturb each other.
#[test]
fn two_recorders_at_once() {
    let (server, load, before) = server();
    let [one, two] = ["997", "499"]
        .map(|hertz| Recorder::of(server.pid()).args(["-d", "2s", "-F", hertz]).start());
    for running in [one, two] {
        let profile = running.finish().recording().profile;
        assert!(profile.sum("samples", |s| s.has("answer_work")) > 0);
    }
    assert_eq!(State::of(server.pid()), before);
    load.finish();
    let _ = server.finish();
}

/// EXOPROF_ROUNDS sets the number of rounds; a thousand take a minute or two.
fn rounds(default: u64) -> u64 {
    std::env::var("EXOPROF_ROUNDS").map_or(default, |n| n.parse().expect("a number"))
}

fn dump(pid: u32) -> std::process::Command {
    let mut command = exoprof_tests::exoprof();
    command.args(["dump", "-q", "-p", &pid.to_string()]);
    command
}

/// Each dump stops all threads.
#[test]
fn dumps_under_load() {
    let (server, load, before) = server();
    for round in 0..rounds(100) {
        let out = dump(server.pid()).output().unwrap();
        assert!(out.status.success(), "round {round}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(State::of(server.pid()), before, "after round {round}");
    }
    load.wait_answers(1000);
    load.finish();
    let _ = server.finish();
}

/// exoprof is killed at moments spread over reading, stopping, copying and symbolizing, and in
/// recordings that stop threads all the time.
#[test]
fn killed_while_threads_are_stopped() {
    let (server, load, before) = server();
    let pid = server.pid().to_string();
    for round in 0..rounds(60) {
        let mut child = if round % 2 == 0 {
            dump(server.pid()).stdout(std::process::Stdio::null()).spawn().unwrap()
        } else {
            let out = ["-d", "10m", "-F", "5000", "-q", "-o", "-", "-p", &pid];
            let mut command = exoprof_tests::exoprof();
            command.args(["record", "--backend", "ptrace"]).args(out);
            command.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        // A moment that depends on the server's work, not on the clock.
        load.wait_answers(20 + round * 13);
        child.kill().unwrap();
        child.wait().unwrap();
        let free = std::iter::repeat_with(|| State::of(server.pid())).take(1000);
        // The kernel resumes the threads before the killed process is reaped, but each thread
        // leaves its stop on its own.
        assert!(free.into_iter().any(|now| now == before), "after round {round}");
    }
    load.wait_answers(1000);
    load.finish();
    let _ = server.finish();
}

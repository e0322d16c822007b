//! Tests with real programs under load, stripped as Debian ships them: exported functions must be
//! found, and at least 99% of the stacks must reach the thread's root.
//!
//! 99%, not 99.5%: real programs spend part of their time in hand-written assembly, in JIT code and
//! in kernel entries.

use std::fs;
use std::process::Command;

use exoprof_tests::expect::assert_roots;
use exoprof_tests::server::{Background, nginx, open_folder, postgres, redis};
use exoprof_tests::{Profile, Recorder, procfs, record, record_busy};
use nix::sys::signal::Signal;

const WHOLE: f64 = 0.99;

/// Records a busy process.
fn recorded(pid: u32) -> Profile {
    record_busy(pid, 2.0, &["-F", "997"]).profile
}

/// Asserts that each function is on the stack for at least this share of the CPU time.
#[track_caller]
fn assert_on_stacks(profile: &Profile, functions: &[(&str, f64)]) {
    let total = profile.total("cpu") as f64;
    for (function, least) in functions {
        let share = profile.sum("cpu", |s| s.has(function)) as f64 / total;
        assert!(
            share >= *least,
            "{function} is on the stack for {:.1}% of the CPU time, under {:.1}%:\n{}",
            share * 100.0,
            least * 100.0,
            profile.describe(8, |s| !s.has(function))
        );
    }
}

fn cpu(pid: u32) -> u64 {
    procfs::cpu_by_thread(pid).values().sum()
}

/// Waits until a process has used 50 ms more of CPU time: its load has started.
fn wait_busy(waiter: &mut Background, pid: u32) {
    let before = cpu(pid);
    waiter.wait_until("busy", || cpu(pid) > before + 50_000_000);
}

#[test]
fn redis_under_benchmark() {
    let folder = open_folder();
    let (mut server, port) = redis(folder.path());
    let mut load = Background::start(Command::new("redis-benchmark").args([
        "-p",
        &port.to_string(),
        "-t",
        "set,get",
        "-l",
        "-q",
    ]));
    wait_busy(&mut load, server.pid());
    let profile = recorded(server.pid());
    server.assert_running();
    load.assert_running();
    assert_roots(&profile, WHOLE);
    // All work is done from the event loop.
    assert_on_stacks(&profile, &[("aeMain", 0.95)]);
    // Debian's binary is stripped, so only exported functions have names.
    assert_on_stacks(&profile, &[("handleClientsWithPendingWrites", 0.05)]);
}

#[test]
fn nginx_under_wrk() {
    let folder = open_folder();
    let (master, port) = nginx(folder.path());
    let worker = procfs::children(master.pid())[0];
    let url = format!("http://127.0.0.1:{port}/index.html");
    let mut load = Background::start(Command::new("wrk").args(["-t1", "-c8", "-d600s", &url]));
    wait_busy(&mut load, worker);
    let profile = recorded(worker);
    load.assert_running();
    assert_roots(&profile, WHOLE);
    assert_on_stacks(&profile, &[("ngx_process_events_and_timers", 0.95)]);
    assert_on_stacks(&profile, &[("ngx_http_core_run_phases", 0.1)]);
    // The master only waits: its profile is that of the worker it has forked.
    let of_worker = |args: &[&str]| {
        let profile = record(master.pid(), args).profile;
        let column = args[0];
        let pid = worker.to_string();
        let sum = profile.sum(column, |s| s.label("pid") == pid && s.label("process") == "nginx");
        (sum as f64, profile.total(column) as f64)
    };
    let (cpu, all) = of_worker(&["cpu", "-d", "1s"]);
    assert!(cpu > 0.2e9 && cpu > 0.95 * all, "{cpu} of {all} ns");
    let (wall, all) = of_worker(&["wall", "-d", "1s"]);
    assert!((wall / all - 0.5).abs() < 0.1, "the worker, one of two threads: {wall} of {all} ns");
    let (_, all) = of_worker(&["cpu", "-d", "1s", "--no-children"]);
    assert!(all < 0.1 * cpu, "{all} ns");
}

/// Backends are forked by the recorded postmaster during the recording.
#[test]
fn postgres_under_pgbench() {
    let folder = open_folder();
    let mut postgres = postgres(folder.path());
    let mut running = Recorder::of(postgres.server.pid()).args(["-d", "10m", "-F", "997"]).start();
    running.wait_recording();
    let load = postgres.pgbench(&["-S", "-c", "4", "-t", "4000", "-n"]).output().unwrap();
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    running.signal(Signal::SIGINT);
    let profile = running.finish().recording().profile;
    postgres.server.assert_running();
    assert_roots(&profile, WHOLE);
    assert_on_stacks(&profile, &[("PostmasterMain", 0.9), ("PostgresMain", 0.7)]);
    assert_on_stacks(&profile, &[("standard_ExecutorRun", 0.02)]);
    assert!(profile.by_label("cpu", "pid").len() >= 4, "four backends were forked");
}

#[test]
fn python() {
    let program = "while True: sum(i * i for i in range(1000))";
    let mut python = Background::start(Command::new("/usr/bin/python3").args(["-c", program]));
    let pid = python.pid();
    wait_busy(&mut python, pid);
    let profile = recorded(pid);
    assert_roots(&profile, WHOLE);
    // Python functions replace the loops that execute them.
    assert_on_stacks(&profile, &[("Py_BytesMain", 0.98), ("<module>", 0.98), ("<genexpr>", 0.5)]);
}

/// JIT code has no unwind tables but keeps frame pointers, so the stack continues below it.
#[test]
fn node() {
    let program = "function hot(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i) * i; \
                   return s; } let t = 0; for (;;) t += hot(10000) + JSON.stringify({ t }).length;";
    let mut node = Background::start(Command::new("/usr/bin/node").args(["-e", program]));
    let pid = node.pid();
    wait_busy(&mut node, pid);
    let profile = recorded(pid);
    assert_roots(&profile, WHOLE);
    // Debian-like builds export node's C++ functions, but not main.
    assert_on_stacks(&profile, &[("node::Start", 0.9)]);
}

#[test]
fn xz() {
    let script = "exec xz -6 -T1 </dev/urandom >/dev/null";
    let mut xz = Background::start(Command::new("sh").args(["-c", script]));
    let pid = xz.pid();
    wait_busy(&mut xz, pid);
    let profile = recorded(pid);
    assert_roots(&profile, WHOLE);
    assert_on_stacks(&profile, &[("lzma_code", 0.9)]);
}

/// gzip exports nothing and is stripped: only complete stacks can be checked.
#[test]
fn gzip() {
    let script = "exec gzip -6 </dev/urandom >/dev/null";
    let mut gzip = Background::start(Command::new("sh").args(["-c", script]));
    let pid = gzip.pid();
    wait_busy(&mut gzip, pid);
    let profile = recorded(pid);
    assert_roots(&profile, WHOLE);
    assert!(profile.mappings[0].file.ends_with("/gzip"), "{:?}", profile.mappings[0]);
    assert!(!profile.mappings[0].build_id.is_empty());
}

/// BPF programs of other users, and the functions they call, are between the system call and the
/// kernel's functions. For a Python program the kernel takes no such samples, and the profile says
/// so.
#[test]
fn bpf_programs_of_others() {
    let probed = |target: &Background, call: &str| {
        let pid = target.pid();
        // Every iteration updates a map: some tens of microseconds per call.
        let probe = format!(
            "tracepoint:syscalls:sys_enter_{call} /pid == {pid}/ \
             {{ $i = 0; while ($i < 300) {{ $i = $i + 1; @a = $i; }} }}"
        );
        let mut bpftrace = Background::start(Command::new("bpftrace").args(["-e", &probe]));
        // The kernel truncates the name.
        let name = format!("sys_enter_{call}").chars().take(14).collect::<String>();
        bpftrace.wait_until("loaded", || {
            let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
            symbols.lines().any(|l| l.contains("bpf_prog_") && l.contains(&name))
        });
        let profile = recorded(pid);
        bpftrace.assert_running();
        profile
    };
    let dd = Background::start(Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=1"]));
    let profile = probed(&dd, "write");
    let in_program = |s: &exoprof_tests::Sample| {
        s.stack.iter().any(|f| f.function.starts_with("bpf_prog_")) && s.has("do_syscall_64")
    };
    let share = profile.sum("cpu", in_program) as f64 / profile.total("cpu") as f64;
    assert!(share > 0.5, "{share}: {}", profile.describe(4, |_| true));
    let program = "import os\nwhile True: os.getppid()";
    let python = Background::start(Command::new("/usr/bin/python3").args(["-c", program]));
    let profile = probed(&python, "getppid");
    let comments = profile.comments.join("\n");
    assert!(comments.contains("samples were not taken: the kernel does not sample"), "{comments}");
}

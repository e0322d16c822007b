//! Tests of threads blocked in musl, which has no unwind tables and whose `libc.so` has no symbols
//! for functions it does not export, such as the system call they wait in.

use exoprof_tests::programs::{self, Program};
use exoprof_tests::{Profile, Recorder, Target, exoprof};
use nix::sys::signal::Signal;

const IDLERS: usize = 7;
const PROGRAMS: [Program; 2] = [programs::LOCKS_MUSL, programs::LOCKS_MUSL_DYNAMIC];

fn for_each(check: impl Fn(&mut Target)) {
    for program in PROGRAMS {
        check(&mut Target::spawn(program, &[&IDLERS.to_string()]));
    }
}

/// An unwinder that attributes code to the preceding exported symbol, such as `memset`, would say
/// that the threads wait there.
fn assert_names(profile: &Profile) {
    for name in ["memset", "memcpy", "memmove", "longjmp", "setjmp"] {
        let seen = profile.samples.iter().find(|s| s.stack.iter().any(|f| f.function == name));
        assert!(seen.is_none(), "{}", seen.expect("a sample"));
    }
}

#[test]
fn in_a_wall_profile() {
    for_each(|target| {
        let recording = Recorder::of(target.pid()).args(["wall", "-d", "2s"]).run().recording();
        let profile = recording.profile;
        assert_names(&profile);
        let idle = profile.sum("wall", |s| s.has("idle") && s.has("idler"));
        let share = idle as f64 / profile.total("wall") as f64;
        let expected = IDLERS as f64 / (IDLERS + 5) as f64;
        assert!((share - expected).abs() < 0.03, "{share}: {}", profile.describe(9, |_| true));
    });
}

#[test]
fn in_a_dump() {
    for_each(|target| {
        let output = exoprof().args(["dump", "-p", &target.pid().to_string()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches("\nidle(").count(), IDLERS, "{text}");
        assert!(!text.contains("memset") && !text.contains("memcpy"), "{text}");
    });
}

/// All waits began before the recording and last beyond its end.
#[test]
fn in_a_block_profile() {
    for_each(|target| {
        let mut running = Recorder::of(target.pid()).args(["block", "-d", "10m"]).start();
        running.wait_waiting();
        target.go(1);
        target.wait_done();
        running.signal(Signal::SIGINT);
        let profile = running.finish().recording().profile;
        assert_names(&profile);
        let waits = |name: &str| profile.sum("contentions", |s| s.has(name));
        assert_eq!(waits("idle"), IDLERS as i64, "{}", profile.describe(20, |_| true));
        assert_eq!(waits("wait_for"), 3, "{}", profile.describe(20, |_| true));
    });
}

//! Tests of the ground-truth programs themselves: they build, speak the handshake and measure
//! correctly.

use exoprof_tests::programs;
use exoprof_tests::{Target, procfs};

#[test]
fn all_build() {
    for program in programs::ALL {
        assert!(program.path().is_file(), "{}", program.name);
        assert_eq!(program.path(), program.path());
    }
}

#[test]
fn truth_agrees_with_schedstat() {
    let mut target = Target::spawn(programs::SHARES, &[]);
    let (truth, cpu) = (target.mark(), procfs::cpu_by_thread(target.pid()));
    target.go(500);
    target.wait_done();
    let truth = target.mark().since(&truth);
    let pid = target.pid();
    let used = procfs::cpu_by_thread(pid)[&pid] - cpu[&pid];
    exoprof_tests::expect::assert_close("CPU", truth.total() as f64, used as f64, 0.01);
    assert!((truth.share("heavy_a") - 0.5).abs() < 0.1, "{truth:?}");
    let _ = target.finish();
}

#[test]
fn state_sees_a_tracer() {
    let mut target = Target::working(programs::SHARES, &[]);
    let state = procfs::State::of(target.pid());
    assert!(state.is_free());
    let pid = nix::unistd::Pid::from_raw(target.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    while procfs::status(target.pid(), "State").starts_with(['R', 'S']) {
        std::thread::yield_now();
    }
    assert_ne!(procfs::State::of(target.pid()), state);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    let _ = target.mark();
    let _ = target.finish();
}

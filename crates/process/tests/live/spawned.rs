use std::ffi::OsString;
use std::path::Path;

use process::{Process, SpawnError, Spawned};

fn touch(path: &Path) -> Vec<OsString> {
    vec!["touch".into(), path.into()]
}

#[test]
fn the_command_runs_only_after_release() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let held = Spawned::new(&touch(&mark)).unwrap();
    let process = Process::open(held.pid()).unwrap();
    assert!(process.is_alive() && !mark.exists());
    let mut running = held.release().unwrap();
    assert_eq!(running.pid(), process.pid());
    assert!(process.wait_exit(None).unwrap());
    assert!(running.wait().unwrap().success());
    assert!(mark.exists());
}

#[test]
fn dropped_children_exit_without_running_anything() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let first = Spawned::new(&touch(&mark)).unwrap();
    let second = Spawned::new(&touch(&mark)).unwrap();
    let process = Process::open(first.pid()).unwrap();
    drop(first);
    assert!(!process.is_alive() && !process.same_process(), "the child is reaped, too");
    drop(second);
    assert!(!mark.exists());
}

#[test]
fn a_program_that_cannot_run_is_reported() {
    let error = Spawned::new(&["/nonexistent/program".into()]).unwrap().release().unwrap_err();
    match &error {
        SpawnError::Exec { error, .. } => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
        SpawnError::Fork { .. } => panic!("{error}"),
    }
    assert!(error.to_string().contains("/nonexistent/program"));
    assert!(matches!(Spawned::new(&[]), Err(SpawnError::Fork { .. })));
    assert!(matches!(Spawned::new(&["a\0b".into()]), Err(SpawnError::Fork { .. })));
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let command = ["sh", "-c", "exit 7"].map(OsString::from);
    let mut running = Spawned::new(&command).unwrap().release().unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(7));
    assert_eq!(running.try_wait().unwrap().and_then(|s| s.code()), Some(7));
}

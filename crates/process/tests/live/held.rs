//! Words of another process that are changed and put back.

use std::path::Path;

use image::{Avma, Memory as _};
use process::{Claimed, HeldWord, Process, Restored, WritableMemory, WriteError};

use crate::support::Target;

/// A word of a child's stack, which nothing there looks at any more: the first bytes of the
/// program's name, at the top of the initial stack.
fn word(process: &Process) -> (Avma, u64) {
    let maps = process.maps().unwrap();
    let stack = maps.rows.iter().find(|r| &*r.path == b"[stack]").expect("a stack");
    let at = Avma(stack.end.0 - 32);
    (at, process.memory().unwrap().read_u64(at).unwrap())
}

#[test]
fn a_word_is_put_back_unless_somebody_else_changed_it() {
    let child = Target::cat(Path::new("/bin/cat"));
    let process = Process::open(child.pid()).unwrap();
    let memory = WritableMemory::open(&process).unwrap();
    let (at, old) = word(&process);
    let now = || process.memory().unwrap().read_u64(at).unwrap();

    let held = HeldWord::write(&process, &memory, at, old, 7, None).unwrap();
    assert_eq!((now(), held.old()), (7, old));
    assert_eq!(held.restore(), Restored::Yes);
    assert_eq!(now(), old);

    drop(HeldWord::write(&process, &memory, at, old, 8, None).unwrap());
    assert_eq!(now(), old, "also when it is dropped");

    let held = HeldWord::write(&process, &memory, at, old, 9, None).unwrap();
    memory.replace(at, 9, 10).unwrap();
    assert_eq!(held.restore(), Restored::ChangedByOthers(10));
    assert_eq!(now(), 10, "what is not ours is left alone");

    let wrong = HeldWord::write(&process, &memory, at, old, 11, None);
    assert!(matches!(wrong, Err(WriteError::Changed { found: 10, .. })), "{wrong:?}");
    assert_eq!(now(), 10, "nothing was written");
}

#[test]
fn one_at_a_time_may_change_a_thing() {
    let child = Target::cat(Path::new("/bin/cat"));
    let process = Process::open(child.pid()).unwrap();
    let claim = process.claim(Claimed::HeapRate).unwrap().expect("free");
    assert!(process.claim(Claimed::HeapRate).unwrap().is_none(), "taken");
    let other = Process::open(child.pid()).unwrap();
    assert!(other.claim(Claimed::HeapRate).unwrap().is_none(), "by whichever handle");
    assert!(process.claim(Claimed::BlockRate).unwrap().is_some(), "another thing is free");
    drop(claim);
    assert!(other.claim(Claimed::HeapRate).unwrap().is_some(), "free again");
}

/// The word outlives neither the process nor its watchdog.
#[test]
fn a_target_that_exits_takes_its_watchdog_along() {
    let child = Target::cat(Path::new("/bin/cat"));
    let process = Process::open(child.pid()).unwrap();
    let memory = WritableMemory::open(&process).unwrap();
    let (at, old) = word(&process);
    let held = HeldWord::write(&process, &memory, at, old, 7, None).unwrap();
    let mut child = child;
    child.kill();
    assert!(process.wait_exit(None).unwrap());
    assert_eq!(held.restore(), Restored::Gone);
}

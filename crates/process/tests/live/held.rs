//! Tests changing words in another process and restoring them.

use std::path::Path;

use image::{Avma, Memory as _};
use process::{Claimed, HeldWord, Process, Restored, WritableMemory, WriteError};

use crate::support::Target;

/// A word on a child's stack that the child no longer uses, and its value: the start of the
/// program's name, at the top of the initial stack.
fn word(process: &Process) -> (Avma, u64) {
    let maps = process.maps().unwrap();
    let stack = maps.rows.iter().find(|r| &*r.path == b"[stack]").expect("a stack");
    let at = Avma(stack.end.0 - 32);
    (at, process.memory().unwrap().read_u64(at).unwrap())
}

#[test]
fn a_word_is_restored_unless_another_process_changed_it() {
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
    assert_eq!(now(), old, "restored on drop, too");

    let held = HeldWord::write(&process, &memory, at, old, 9, None).unwrap();
    memory.replace(at, 9, 10).unwrap();
    assert_eq!(held.restore(), Restored::ChangedByOthers(10));
    assert_eq!(now(), 10, "a word that others changed is left alone");

    let wrong = HeldWord::write(&process, &memory, at, old, 11, None);
    assert!(matches!(wrong, Err(WriteError::Changed { found: 10, .. })), "{wrong:?}");
    assert_eq!(now(), 10, "nothing was written");
}

#[test]
fn a_setting_can_be_claimed_only_once() {
    let child = Target::cat(Path::new("/bin/cat"));
    let process = Process::open(child.pid()).unwrap();
    let claim = process.claim(Claimed::HeapRate).unwrap().expect("free");
    assert!(process.claim(Claimed::HeapRate).unwrap().is_none(), "already claimed");
    let other = Process::open(child.pid()).unwrap();
    assert!(other.claim(Claimed::HeapRate).unwrap().is_none(), "through any handle");
    assert!(process.claim(Claimed::BlockRate).unwrap().is_some(), "another setting is free");
    drop(claim);
    assert!(other.claim(Claimed::HeapRate).unwrap().is_some(), "free again");
}

/// After the target exits there is nothing left to restore, and no watchdog process.
#[test]
fn nothing_is_restored_after_the_target_exits() {
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

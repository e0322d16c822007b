use super::*;

/// Above the kernel's limit on PIDs: no such process.
const GONE: i32 = 2_000_000_000;

fn own(follow_children: bool) -> (Processes, Arc<Process>) {
    let process = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
    let mut processes = Processes::new(follow_children);
    processes.add_root(process.clone());
    (processes, process)
}

fn thread_of(pid: i32, tid: i32, parent_tid: i32) -> Fork {
    Fork { pid, tid, parent_pid: pid, parent_tid }
}

fn child_of(parent: i32) -> Fork {
    Fork { pid: GONE, tid: GONE, parent_pid: parent, parent_tid: parent }
}

fn renamed(name: &str) -> Comm<'_> {
    Comm { exec: false, name: name.as_bytes() }
}

#[test]
fn samples_are_counted_by_thread_and_name() {
    let (mut all, p) = own(false);
    let pid = p.pid();
    let first = all.sampled(pid, pid).expect("followed");
    all.named(pid, pid, renamed("boss"), 0);
    let boss = all.sampled(pid, pid).expect("followed");
    assert_ne!(boss, first);
    assert_eq!(all.sampled(pid, pid), Some(boss));

    all.forked(thread_of(pid, GONE, pid), 0, false);
    let worker = all.sampled(pid, GONE).expect("followed");
    let named = &all.named_threads()[worker as usize];
    assert_eq!((named.id.tid, &*named.name, &*named.process), (GONE, "boss", "boss"));
    // Only a process's first thread names the process, but then for all its threads.
    all.named(pid, GONE, renamed("worker"), 0);
    let worker = all.sampled(pid, GONE).expect("followed");
    let named = &all.named_threads()[worker as usize];
    assert_eq!((&*named.name, &*named.process), ("worker", "boss"));
    assert_eq!(all.sampled(pid, pid), Some(boss));
    all.named(pid, pid, renamed("chief"), 0);
    let moved = all.sampled(pid, GONE).expect("followed");
    assert_eq!(&*all.named_threads()[moved as usize].process, "chief");
    // An earlier name has its earlier index.
    all.named(pid, pid, renamed("boss"), 0);
    assert_eq!(all.sampled(pid, pid), Some(boss));
    assert_eq!(all.thread_count(), 2);
    assert_eq!(all.sampled(GONE, GONE), None);
}

#[test]
fn a_reused_tid_is_remembered() {
    let (mut all, p) = own(false);
    let pid = p.pid();
    all.forked(thread_of(pid, GONE, pid), 0, false);
    all.forked(thread_of(pid, GONE, pid), 0, false);
    assert!(!all.get(pid).expect("followed").threads[&GONE].reused, "it has not ended");
    all.exited(thread_of(pid, GONE, pid));
    assert!(all.get(pid).expect("followed").threads[&GONE].ended);
    all.forked(thread_of(pid, GONE, pid), 0, false);
    let thread = &all.get(pid).expect("followed").threads[&GONE];
    assert!(thread.reused && !thread.ended);
}

#[test]
fn threads_inherit_events_of_the_first_thread_of_a_chain() {
    let (mut all, p) = own(false);
    let pid = p.pid();
    all.add_thread(pid, pid, 0);
    all.forked(thread_of(pid, GONE, pid), 0, true);
    all.forked(thread_of(pid, GONE + 1, GONE), 0, true);
    all.forked(thread_of(pid, GONE + 2, pid), 0, false);
    let threads = &all.get(pid).expect("followed").threads;
    let origins = [0, 1, 2].map(|i| threads[&(GONE + i)].origin);
    assert_eq!(origins, [Some(pid), Some(pid), None]);
}

#[test]
fn children_are_followed_if_asked_for() {
    let (mut all, p) = own(false);
    all.forked(child_of(p.pid()), 5, false);
    assert!(all.get(GONE).is_none());

    let (mut all, p) = own(true);
    all.refresh_maps(&p, 0);
    all.forked(child_of(p.pid()), 5, false);
    let [parent, child] = [p.pid(), GONE].map(|pid| all.get(pid).expect("followed"));
    assert_eq!((child.parent, &child.name), (Some(p.pid()), &parent.name));
    assert!(child.space.iter().map(|m| m.id).eq(parent.space.iter().map(|m| m.id)));
    assert_eq!((child.clock_at_begin, child.reaped_at_begin), (Some(0), Some(0)));
    assert_eq!(all.pids(), [p.pid(), GONE]);
    assert_eq!(all.alive().len(), 1, "the child could not be opened");

    // A process that is not followed has forked another one under the same PID.
    all.forked(child_of(GONE + 1), 9, false);
    assert!(all.get(GONE).expect("its samples stay").replaced);
    assert_eq!(all.sampled(GONE, GONE), None);
}

#[test]
fn a_running_child_can_be_added() {
    let mut cat =
        std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
    let child = Arc::new(Process::open(cat.id().cast_signed()).expect("it runs"));
    let (mut all, _) = own(true);
    all.add_child(&child, 1);
    let added = all.get(child.pid()).expect("followed");
    assert_eq!((added.clock_at_begin, added.reaped_at_begin), (Some(0), Some(0)));
    assert!(added.space.iter().next().is_some());
    assert_eq!(all.alive().len(), 2);
    drop(cat.stdin.take());
    let _ = cat.wait();
    assert_eq!(all.alive().len(), 1);
    all.sampled(child.pid(), child.pid());
    all.ended(child.pid());
    let ended = all.get(child.pid()).expect("its threads stay");
    assert!(ended.process.is_none() && ended.memory.is_none());
    assert_eq!((ended.space.iter().count(), ended.threads.len()), (0, 1));
}

#[test]
fn unchanged_mappings_keep_their_ids() {
    let (mut all, p) = own(false);
    all.refresh_maps(&p, 10);
    let ids = |all: &Processes| -> Vec<_> {
        all.get(p.pid()).expect("followed").space.iter().map(|m| m.id).collect()
    };
    let before = ids(&all);
    assert!(!before.is_empty());
    assert_eq!(before.iter().collect::<std::collections::BTreeSet<_>>().len(), before.len());
    all.refresh_maps(&p, 20);
    assert_eq!(ids(&all), before);
    assert_eq!(all.unreadable_maps, 0);
}

#[test]
fn events_from_before_the_maps_were_read_change_nothing() {
    let (mut all, p) = own(false);
    all.refresh_maps(&p, 10);
    let count = |all: &Processes| all.get(p.pid()).expect("followed").space.iter().count();
    let event = MmapEvent {
        start: 0x1000,
        len: 0x1000,
        offset: 0,
        major: 0,
        minor: 0,
        inode: 0,
        path: b"//anon",
    };
    let before = count(&all);
    all.mapped(p.pid(), &event, 9);
    assert_eq!(count(&all), before);
    all.mapped(p.pid(), &event, 10);
    assert_eq!(count(&all), before + 1);
    all.mapped(p.pid(), &MmapEvent { len: u64::MAX, ..event }, 11);
    assert_eq!((count(&all), all.unreadable_maps), (before + 1, 1));

    let exec = Comm { exec: true, name: b"other" };
    all.named(p.pid(), p.pid(), exec, 10);
    assert_eq!(count(&all), before + 1);
    all.named(p.pid(), p.pid(), Comm { exec: false, ..exec }, 11);
    assert_eq!(count(&all), before + 1, "it has the same address space");
    all.named(p.pid(), p.pid(), exec, 11);
    assert_eq!(count(&all), 0);
}

#[test]
fn user_share_is_that_of_the_ticks_of_the_recording() {
    let mut thread = Thread::new("t".into(), 0, None);
    assert_eq!(thread.user_share(), None);
    (thread.ticks_at_begin, thread.ticks_at_end) = ((10, 10), (40, 20));
    assert_eq!(thread.user_share(), Some(0.75));
}

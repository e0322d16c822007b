//! Tests which runtimes are called for a process, with made-up runtimes.

use std::sync::Arc;

use events::ChainLayout;

use super::super::chains::Missing;
use super::*;

/// Is in every process and keeps its frames in chains.
struct Chained;

impl Runtime for Chained {
    fn attach(&mut self, _pid: i32, _tracked: &Tracked) -> Presence {
        Presence::Attached(Roles { frames: true, ..Roles::default() })
    }

    fn detach(&mut self, _pid: i32) {}

    fn functions(&self, _index: u32) -> Vec<Function> {
        vec![Function::named("chained")]
    }

    fn chain_layout(&self, _pid: i32) -> Option<ChainLayout> {
        Some(ChainLayout::default())
    }
}

/// Is never ready and reports how often it was called.
#[derive(Default)]
struct Counting {
    attach: u32,
    detach: u32,
    created: u32,
    ended: u32,
}

impl Runtime for Counting {
    fn attach(&mut self, _pid: i32, _tracked: &Tracked) -> Presence {
        self.attach += 1;
        Presence::NotReady
    }

    fn detach(&mut self, _pid: i32) {
        self.detach += 1;
    }

    fn functions(&self, _index: u32) -> Vec<Function> {
        Vec::new()
    }

    fn thread_created(&mut self, _pid: i32) {
        self.created += 1;
    }

    fn thread_ended(&mut self, _id: ThreadId) {
        self.ended += 1;
    }

    fn notes(&self) -> Vec<String> {
        let Self { attach, detach, created, ended } = self;
        vec![format!("{attach} attach, {detach} detach, {created} created, {ended} ended")]
    }
}

/// Like [`Counting`], but in every process.
#[derive(Default)]
struct Present(Counting);

impl Runtime for Present {
    fn attach(&mut self, pid: i32, tracked: &Tracked) -> Presence {
        self.0.attach(pid, tracked);
        Presence::Attached(Roles { stacks: true, ..Roles::default() })
    }

    fn detach(&mut self, pid: i32) {
        self.0.detach(pid);
    }

    fn functions(&self, index: u32) -> Vec<Function> {
        self.0.functions(index)
    }

    fn thread_created(&mut self, pid: i32) {
        self.0.thread_created(pid);
    }

    fn thread_ended(&mut self, id: ThreadId) {
        self.0.thread_ended(id);
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes()
    }
}

fn row(name: &'static str, new: fn() -> Box<dyn Runtime>) -> Row {
    Row { name, mapping: "[own]", new, keeps_file: None }
}

fn own() -> (Processes, i32) {
    let process = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
    let mut processes = Processes::new(false);
    processes.add_root(process.clone());
    (processes, process.pid())
}

#[test]
fn chains_of_one_runtime_per_process_are_followed() {
    let (processes, pid) = own();
    let rows = [row("First", || Box::new(Chained)), row("Second", || Box::new(Chained))];
    let mut runtimes = Runtimes::new(&rows);
    assert!(!runtimes.have_chains());
    runtimes.search(&processes);
    runtimes.search(&processes);
    let only =
        format!("no Second frames for process {pid}: only one runtime's frames can be followed");
    assert_eq!(runtimes.notes(), [only]);
    assert!(runtimes.have_chains() && runtimes.need_thread_pointers_of(pid));
    assert_eq!((&*runtimes.with_chains(), runtimes.with_programs()), ("First", None));
    assert!(runtimes.read_threads_of(pid, Some(1)));
    assert!(!runtimes.read_threads_of(pid, None), "chains are found by the thread pointer");
    runtimes.forget(pid);
    assert!(!runtimes.have_chains() && !runtimes.need_thread_pointers_of(pid));
}

#[test]
fn a_runtime_that_is_not_ready_is_searched_a_limited_number_of_times() {
    let (mut processes, pid) = own();
    let counting = row("Slow", || Box::new(Counting::default()));
    let mut runtimes = Runtimes::new(&[counting, row("First", || Box::new(Chained))]);
    for _ in 0..MAX_TRIES + 10 {
        runtimes.search(&processes);
    }
    assert_eq!(runtimes.notes(), ["101 attach, 0 detach, 0 created, 0 ended"]);
    // New mappings may make it ready.
    let process = processes.get(pid).and_then(|t| t.process.clone()).expect("we live");
    processes.ended(pid);
    processes.refresh_maps(&process, 0);
    runtimes.search(&processes);
    assert_eq!(runtimes.notes(), ["102 attach, 0 detach, 0 created, 0 ended"]);
}

#[test]
fn only_runtimes_in_the_process_are_called_until_it_is_forgotten() {
    let (processes, pid) = own();
    let absent = row("Slow", || Box::new(Counting::default()));
    let mut runtimes = Runtimes::new(&[absent, row("Present", || Box::new(Present::default()))]);
    runtimes.search(&processes);
    for pid in [pid, pid + 1] {
        runtimes.thread_created(pid);
        runtimes.thread_created(pid);
        runtimes.thread_ended(ThreadId { pid, tid: 1 });
        runtimes.forget(pid);
        runtimes.forget(pid);
    }
    runtimes.thread_created(pid);
    let expected =
        ["1 attach, 1 detach, 0 created, 0 ended", "1 attach, 1 detach, 2 created, 1 ended"];
    assert_eq!(runtimes.notes(), expected);
    assert!(!runtimes.read_threads_of(pid, None));
    runtimes.search(&processes);
    assert!(runtimes.read_threads_of(pid, None), "its stacks need no thread pointer");
}

#[test]
fn notes_are_not_repeated_and_limited() {
    let mut runtimes = Runtimes::new(&[row("First", || Box::new(Chained))]);
    runtimes.note("once".into());
    runtimes.note("once".into());
    assert_eq!(runtimes.notes(), ["once"]);
    for i in 0..MAX_NOTES {
        runtimes.note(i.to_string());
    }
    assert_eq!(runtimes.notes().len(), MAX_NOTES);
}

#[test]
fn missing_chains_are_noted_by_runtime() {
    let mut runtimes = Runtimes::new(&[row("First", || Box::new(Chained))]);
    runtimes.chains.missing.insert(0, Missing { fresh: 2, unmatched: 0 });
    let note = "First samples without First frames (process not followed yet): 2";
    assert_eq!(runtimes.notes(), [note]);
    runtimes.chains.missing.insert(0, Missing { fresh: 0, unmatched: 3 });
    let note = "First samples without First frames (frames did not arrive): 3";
    assert_eq!(runtimes.notes(), [note]);
}

#[test]
fn frames_have_the_names_and_mapping_of_their_runtime() {
    let runtimes = Runtimes::new(&[row("First", || Box::new(Chained))]);
    let names: Vec<_> = runtimes.functions(0, 0).into_iter().map(|f| f.name.to_string()).collect();
    assert_eq!((names, runtimes.mapping(0)), (vec!["chained".to_owned()], "[own]"));
    assert_eq!((runtimes.functions(1, 0).len(), runtimes.mapping(1)), (0, "[unmapped]"));
}

#[test]
fn sets_of_rows() {
    assert!(bits(0).eq([]));
    let rows = set_row(set_row(set_row(0, 31, true), 0, true), 4, true);
    assert!(bits(rows).eq([0, 4, 31]));
    assert!(bits(set_row(rows, 4, false)).eq([0, 31]));
}

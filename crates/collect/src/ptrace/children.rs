//! Finds children that are forked while [`super::ticks`] records. ptrace sampling gets no event for
//! a fork, so each tick searches for new children.
//!
//! Only a thread that was on a CPU can have forked. The kernel's list of a thread's children is
//! therefore read at each tick for the threads that were on a CPU, and at each tenth tick for all
//! threads, since a thread that ends leaves its children to another. Where the kernel has no such
//! lists, all processes are searched for their parents.
//!
//! A child that begins and ends between two ticks is missed. So is a child whose parent ends before
//! the child was seen: by then, it is the child of another process. The CPU time of such children
//! is visible in the time that the kernel charges to a parent that waits for its child.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregate::family::{MOST, count};
use process::{OpenError, Process};

use super::followed::SampledProcess;

/// All processes are searched at most once in this interval.
const INTERVAL: Duration = Duration::from_millis(100);
/// All processes are searched for at most one part in this many of the time.
const SHARE: u32 = 20;

/// Which children are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChildOptions {
    /// Children forked during the recording.
    pub forked: bool,
    /// Children that were already running.
    pub existing: bool,
}

/// Finds the children of the followed processes.
pub(super) struct ChildFinder {
    options: ChildOptions,
    /// Whether the kernel lists the children of each thread.
    by_thread: bool,
    /// Otherwise, in a tick that searches for children: all PIDs by their parent's PID.
    all: Option<BTreeMap<i32, Vec<i32>>>,
    /// When all processes may be searched again.
    next: Instant,
    /// The PIDs of the followed processes, and our own.
    known: BTreeSet<i32>,
    /// At most this many processes are followed at a time.
    limit: usize,
    /// The recording has begun.
    began: bool,
    found: usize,
    over_limit: usize,
    /// Children that ended before they were seen.
    unseen: usize,
    /// How many children could not be opened, and why the first could not.
    refused: (usize, Option<String>),
}

impl ChildFinder {
    pub fn new(of: &[Arc<Process>], options: ChildOptions) -> Self {
        let mut known: BTreeSet<i32> = of.iter().map(|p| p.pid()).collect();
        let limit = known.len().max(MOST);
        // If exoprof records the shell that it runs in, it does not record itself.
        known.insert(std::process::id().cast_signed());
        if options.forked {
            // If the limit cannot be raised and is reached, opening a process reports it.
            let _ = host::raise_nofile();
        }
        Self {
            options,
            by_thread: process::lists_children(),
            all: None,
            next: Instant::now(),
            known,
            limit,
            began: false,
            found: 0,
            over_limit: 0,
            unseen: 0,
            refused: (0, None),
        }
    }

    /// Begins a tick. `began` is false for the tick before the recording.
    pub fn next_tick(&mut self, began: bool) {
        self.began = began;
        self.all = None;
        let now = Instant::now();
        if self.options.forked && !self.by_thread && now >= self.next {
            self.all = Some(process::by_parent());
            self.next = Instant::now() + INTERVAL.max(now.elapsed() * (SHARE - 1));
        }
    }

    /// Returns the new children of a process. `threads` are its threads that may have forked;
    /// `complete` means that these are all its threads.
    pub fn of(
        &mut self,
        parent: &mut SampledProcess,
        threads: &[i32],
        complete: bool,
    ) -> Vec<Arc<Process>> {
        if !self.options.forked {
            return Vec::new();
        }
        let mut listed = BTreeSet::new();
        match &self.all {
            Some(all) => listed.extend(all.get(&parent.process.pid()).into_iter().flatten()),
            None if self.by_thread => {
                let of_thread = |tid: &i32| parent.process.thread_children(*tid);
                listed.extend(threads.iter().filter_map(|tid| of_thread(tid).ok()).flatten());
            }
            None => return Vec::new(),
        }
        if complete || self.all.is_some() {
            // A PID that is not listed any more may belong to another process the next time.
            parent.ignored_children.retain(|pid| listed.contains(pid));
        }
        listed.retain(|pid| !self.known.contains(pid) && !parent.ignored_children.contains(pid));
        listed.into_iter().filter_map(|pid| self.open_child(parent, pid)).collect()
    }

    fn open_child(&mut self, parent: &mut SampledProcess, pid: i32) -> Option<Arc<Process>> {
        // Children that ran before the recording and could not be followed are already counted.
        let counted = usize::from(self.began);
        let why = match Process::open(pid) {
            Ok(_) if !self.began && !self.options.existing => None,
            Ok(_) if self.known.len() > self.limit => {
                self.over_limit += counted;
                None
            }
            Ok(process) if process.parent().ok() == Some(parent.process.pid()) => {
                self.known.insert(pid);
                self.found += 1;
                return Some(Arc::new(process));
            }
            // It has another parent by now, or the PID was reused.
            Ok(_) | Err(OpenError::NoSuchProcess { .. }) => return None,
            Err(OpenError::Zombie { .. }) => {
                self.unseen += counted;
                None
            }
            Err(why) => Some(why),
        };
        if let Some(why) = why {
            self.refused.0 += counted;
            self.refused.1.get_or_insert(why.to_string());
        }
        parent.ignored_children.insert(pid);
        None
    }

    /// Forgets a followed process that has ended.
    pub fn ended(&mut self, pid: i32) {
        self.known.remove(&pid);
    }

    /// Notes for the profile: which children forked during the recording are recorded, and which
    /// not.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let meanwhile = "forked during the recording";
        if self.found > 0 {
            let is = if self.found == 1 { "is" } else { "are" };
            notes.push(format!("{} {meanwhile} {is} recorded too", count(self.found)));
        }
        if self.unseen > 0 {
            notes.push(format!("{} ended before being found", count(self.unseen)));
        }
        if self.over_limit > 0 {
            let children = count(self.over_limit);
            notes.push(format!(
                "did not record {children} {meanwhile}: at most {MOST} are followed at a time"
            ));
        }
        if let (n @ 1.., Some(why)) = &self.refused {
            notes.push(format!("could not record {} {meanwhile}: {why}", count(*n)));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const ALL: ChildOptions = ChildOptions { forked: true, existing: true };

    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat")
    }

    fn own() -> SampledProcess {
        let own = Process::open(std::process::id().cast_signed()).expect("we live");
        SampledProcess::new(Arc::new(own))
    }

    /// A finder that uses the kernel's lists of children, and one that searches all processes.
    fn both_ways(of: &SampledProcess, options: ChildOptions) -> [ChildFinder; 2] {
        [true, false].map(|by_thread| {
            let new = ChildFinder::new(std::slice::from_ref(&of.process), options);
            ChildFinder { by_thread, ..new }
        })
    }

    fn find(finder: &mut ChildFinder, parent: &mut SampledProcess, began: bool) -> Vec<i32> {
        finder.next = Instant::now();
        finder.next_tick(began);
        let threads = parent.list(true);
        finder.of(parent, &threads, true).iter().map(|p| p.pid()).collect()
    }

    #[test]
    fn a_child_is_found_once_in_both_ways() {
        let mut parent = own();
        for mut finder in both_ways(&parent, ALL) {
            find(&mut finder, &mut parent, false);
            let mut child = cat();
            let pid = child.id().cast_signed();
            assert!(find(&mut finder, &mut parent, true).contains(&pid));
            assert!(!find(&mut finder, &mut parent, true).contains(&pid));
            assert!(finder.notes()[0].contains("forked during"), "{:?}", finder.notes());
            // After it has ended, its PID may be reused by another child.
            finder.ended(pid);
            assert!(find(&mut finder, &mut parent, true).contains(&pid));
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    #[test]
    fn processes_that_are_not_followed() {
        let mut parent = own();
        for by_thread in [0, 1] {
            let mut finder = both_ways(&parent, ChildOptions { forked: true, existing: false });
            let mut disabled = both_ways(&parent, ChildOptions { forked: false, existing: false });
            let mut crowded = both_ways(&parent, ALL);
            crowded[by_thread].limit = 0;
            let mut child = cat();
            let pid = child.id().cast_signed();
            assert!(!find(&mut finder[by_thread], &mut parent, false).contains(&pid));
            assert!(!find(&mut finder[by_thread], &mut parent, true).contains(&pid));
            parent.ignored_children.clear();
            assert_eq!(find(&mut disabled[by_thread], &mut parent, true), []);
            assert_eq!(find(&mut crowded[by_thread], &mut parent, true), []);
            assert!(parent.ignored_children.contains(&pid) && crowded[by_thread].over_limit > 0);
            drop(child.stdin.take());
            let _ = child.wait();
            find(&mut crowded[by_thread], &mut parent, true);
            assert!(!parent.ignored_children.contains(&pid), "its PID is not listed any more");
        }
    }

    #[test]
    fn a_child_that_has_ended_is_counted() {
        let mut parent = own();
        let mut child = cat();
        let whole = Process::open(child.id().cast_signed()).expect("it waits for us");
        drop(child.stdin.take());
        whole.wait_exit(None).expect("it ends");
        for mut finder in both_ways(&parent, ALL) {
            parent.ignored_children.clear();
            find(&mut finder, &mut parent, true);
            assert!(finder.unseen >= 1 && parent.ignored_children.contains(&whole.pid()));
            assert!(finder.notes().iter().any(|n| n.contains("ended before")));
        }
        let _ = child.wait();
    }
}

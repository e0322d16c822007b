//! Children that are forked while a recording by the clock runs. Nothing tells of them there, so
//! they are looked for.
//!
//! Only a thread that was on a CPU can have forked. So the kernel's list of its children is read at
//! each tick for each thread that was, and at each tenth for all, since a thread that ends leaves
//! its children to another. Where the kernel has no such lists, all processes are gone through for
//! their parents.
//!
//! A child that begins and ends between two ticks is missed, and so is one whose parent ends before
//! it was seen: it is another process' child by then. What such children cost shows in what their
//! parents are charged with when they wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregate::family::{MOST, count};
use process::{OpenError, Process};

use super::followed::Followed;

/// Where all processes have to be gone through: not more often, and not longer than for one part
/// in so many of the time.
const INTERVAL: Duration = Duration::from_millis(100);
const SHARE: u32 = 20;

/// Whose children are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Those that are forked during the recording.
    pub forked: bool,
    /// Those, too, that ran before.
    pub before: bool,
}

/// See the module.
pub(super) struct Offspring {
    wanted: Wanted,
    /// Whether the kernel lists children by their thread.
    by_thread: bool,
    /// Otherwise: all processes by their parent, in a tick that looks for children.
    all: Option<BTreeMap<i32, Vec<i32>>>,
    next: Instant,
    /// Whom we follow, and we ourselves.
    known: BTreeSet<i32>,
    /// More are not followed at a time.
    most: usize,
    began: bool,
    found: usize,
    beyond: usize,
    unseen: usize,
    /// Why some could not be opened, and how many.
    refused: (usize, Option<String>),
}

impl Offspring {
    pub fn new(of: &[Arc<Process>], wanted: Wanted) -> Self {
        let mut known: BTreeSet<i32> = of.iter().map(|p| p.pid()).collect();
        let most = known.len().max(MOST);
        // A recording of the shell that it runs in does not record itself.
        known.insert(std::process::id().cast_signed());
        if wanted.forked {
            // Where the limit cannot be raised, opening says so.
            let _ = host::raise_nofile();
        }
        Self {
            wanted,
            by_thread: process::lists_children(),
            all: None,
            next: Instant::now(),
            known,
            most,
            began: false,
            found: 0,
            beyond: 0,
            unseen: 0,
            refused: (0, None),
        }
    }

    /// A tick begins; `began` tells it from the one before the recording.
    pub fn next_tick(&mut self, began: bool) {
        self.began = began;
        self.all = None;
        let now = Instant::now();
        if self.wanted.forked && !self.by_thread && now >= self.next {
            self.all = Some(process::by_parent());
            self.next = Instant::now() + INTERVAL.max(now.elapsed() * (SHARE - 1));
        }
    }

    /// The children of a process that are not known yet. `threads` are those that may have forked;
    /// `complete` where they are all.
    pub fn of(
        &mut self,
        parent: &mut Followed,
        threads: &[i32],
        complete: bool,
    ) -> Vec<Arc<Process>> {
        if !self.wanted.forked {
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
            // A number that is not listed any more may be another's the next time.
            parent.passed_over.retain(|pid| listed.contains(pid));
        }
        listed.retain(|pid| !self.known.contains(pid) && !parent.passed_over.contains(pid));
        listed.into_iter().filter_map(|pid| self.take_in(parent, pid)).collect()
    }

    fn take_in(&mut self, parent: &mut Followed, pid: i32) -> Option<Arc<Process>> {
        // What ran before was counted already, where it was not taken in.
        let counted = usize::from(self.began);
        let why = match Process::open(pid) {
            Ok(_) if !self.began && !self.wanted.before => None,
            Ok(_) if self.known.len() > self.most => {
                self.beyond += counted;
                None
            }
            Ok(process) if process.parent().ok() == Some(parent.process.pid()) => {
                self.known.insert(pid);
                self.found += 1;
                return Some(Arc::new(process));
            }
            // Another process' by now, or another process.
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
        parent.passed_over.insert(pid);
        None
    }

    /// A followed process has ended.
    pub fn ended(&mut self, pid: i32) {
        self.known.remove(&pid);
    }

    /// Text for the profile: who is recorded besides those that ran before, and who is not.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let meanwhile = "forked during the recording";
        if self.found > 0 {
            let is = if self.found == 1 { "is" } else { "are" };
            notes.push(format!("{} {meanwhile} {is} recorded too", count(self.found)));
        }
        if self.unseen > 0 {
            notes.push(format!("{} ended before they were seen", count(self.unseen)));
        }
        if self.beyond > 0 {
            let most = format!("{MOST} are followed at a time");
            notes.push(format!("{} {meanwhile} are not recorded: {most}", count(self.beyond)));
        }
        if let (n @ 1.., Some(why)) = &self.refused {
            notes.push(format!("{} {meanwhile} cannot be recorded: {why}", count(*n)));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const ALL: Wanted = Wanted { forked: true, before: true };

    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat")
    }

    fn own() -> Followed {
        let own = Process::open(std::process::id().cast_signed()).expect("we live");
        Followed::new(Arc::new(own))
    }

    /// The kernel's lists of children, and all processes.
    fn both_ways(of: &Followed, wanted: Wanted) -> [Offspring; 2] {
        [true, false].map(|by_thread| {
            let new = Offspring::new(std::slice::from_ref(&of.process), wanted);
            Offspring { by_thread, ..new }
        })
    }

    fn look(offspring: &mut Offspring, parent: &mut Followed, began: bool) -> Vec<i32> {
        offspring.next = Instant::now();
        offspring.next_tick(began);
        let threads = parent.list(true);
        offspring.of(parent, &threads, true).iter().map(|p| p.pid()).collect()
    }

    #[test]
    fn a_child_is_found_once_in_both_ways() {
        let mut parent = own();
        for mut offspring in both_ways(&parent, ALL) {
            look(&mut offspring, &mut parent, false);
            let mut child = cat();
            let pid = child.id().cast_signed();
            assert!(look(&mut offspring, &mut parent, true).contains(&pid));
            assert!(!look(&mut offspring, &mut parent, true).contains(&pid));
            assert!(offspring.notes()[0].contains("forked during"), "{:?}", offspring.notes());
            // Its number may be another child's once it has ended.
            offspring.ended(pid);
            assert!(look(&mut offspring, &mut parent, true).contains(&pid));
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    #[test]
    fn whom_we_do_not_follow() {
        let mut parent = own();
        for by_thread in [0, 1] {
            let mut offspring = both_ways(&parent, Wanted { forked: true, before: false });
            let mut nobody = both_ways(&parent, Wanted { forked: false, before: false });
            let mut crowded = both_ways(&parent, ALL);
            crowded[by_thread].most = 0;
            let mut child = cat();
            let pid = child.id().cast_signed();
            assert!(!look(&mut offspring[by_thread], &mut parent, false).contains(&pid));
            assert!(!look(&mut offspring[by_thread], &mut parent, true).contains(&pid));
            parent.passed_over.clear();
            assert_eq!(look(&mut nobody[by_thread], &mut parent, true), []);
            assert_eq!(look(&mut crowded[by_thread], &mut parent, true), []);
            assert!(parent.passed_over.contains(&pid) && crowded[by_thread].beyond > 0);
            drop(child.stdin.take());
            let _ = child.wait();
            look(&mut crowded[by_thread], &mut parent, true);
            assert!(!parent.passed_over.contains(&pid), "it is not listed any more");
        }
    }

    #[test]
    fn a_child_that_has_ended_is_counted() {
        let mut parent = own();
        let mut child = cat();
        let whole = Process::open(child.id().cast_signed()).expect("it waits for us");
        drop(child.stdin.take());
        whole.wait_exit(None).expect("it ends");
        for mut offspring in both_ways(&parent, ALL) {
            parent.passed_over.clear();
            look(&mut offspring, &mut parent, true);
            assert!(offspring.unseen >= 1 && parent.passed_over.contains(&whole.pid()));
            assert!(offspring.notes().iter().any(|n| n.contains("ended before")));
        }
        let _ = child.wait();
    }
}

//! Finds the descendants that the targets already have, so that they are recorded too: in a server
//! whose master process only waits, its workers do all the work.

use std::collections::BTreeSet;
use std::sync::Arc;

use process::{OpenError, Process};

/// The maximum number of descendants. Each costs file descriptors, and all its mappings must be
/// read.
pub const MOST: usize = 1024;
/// The maximum number of scans of `/proc`. Each further scan finds processes that were forked
/// during the previous one.
const MAX_SCANS: usize = 4;

/// The targets and their descendants.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// The targets, then their descendants by PID.
    pub processes: Vec<Arc<Process>>,
    targets: usize,
    /// The number of descendants beyond [`MOST`].
    beyond: usize,
    /// How many descendants could not be opened, and why one of them could not.
    refused: (usize, Option<String>),
}

impl Family {
    /// The targets, with their running descendants if `descendants` is set.
    pub fn of(targets: &[Arc<Process>], descendants: bool) -> Self {
        let targets_only =
            Self { processes: targets.to_vec(), targets: targets.len(), ..Self::default() };
        if descendants { targets_only.with_descendants() } else { targets_only }
    }

    fn with_descendants(mut self) -> Self {
        // Each process needs three descriptors. If the limit cannot be raised, opening a process
        // fails and reports it.
        let _ = host::raise_nofile();
        let mut seen: BTreeSet<i32> = self.processes.iter().map(|p| p.pid()).collect();
        // A profiler that records its own shell must not record itself.
        seen.insert(std::process::id().cast_signed());
        for _ in 0..MAX_SCANS {
            let known: Vec<i32> = self.processes.iter().map(|p| p.pid()).collect();
            let found = process::descendants(&known, &seen);
            if found.is_empty() {
                break;
            }
            for pid in found {
                seen.insert(pid);
                self.add_descendant(pid);
            }
        }
        self
    }

    fn add_descendant(&mut self, pid: i32) {
        if self.processes.len() - self.targets >= MOST {
            self.beyond += 1;
            return;
        }
        match Process::open(pid) {
            Ok(process) => {
                // The process may have ended and its PID may have been reused, so its parent must
                // be one of ours.
                let parent = process.parent().ok();
                if self.processes.iter().any(|p| Some(p.pid()) == parent) {
                    self.processes.push(Arc::new(process));
                }
            }
            Err(OpenError::Permission { .. } | OpenError::System { .. }) => {
                self.refused.0 += 1;
                let why = || Process::open(pid).err().map(|e| e.to_string());
                self.refused.1 = self.refused.1.take().or_else(why);
            }
            // The process is gone, or a zombie.
            Err(_) => {}
        }
    }

    /// A copy without the descendants, which cannot be recorded because of `why`.
    pub fn targets_only(&self, why: &str) -> Self {
        let mut processes = self.processes.clone();
        let more = processes.split_off(self.targets).len() + self.refused.0;
        let refused = (more, Some(why.to_owned()));
        Self { processes, targets: self.targets, beyond: self.beyond, refused }
    }

    /// Whether there are descendants.
    pub fn has_descendants(&self) -> bool {
        self.processes.len() > self.targets
    }

    /// Text for the profile: which descendants are recorded and which are not.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let are = |n: usize| if n == 1 { "is" } else { "are" };
        match self.processes.len() - self.targets {
            0 => {}
            n => notes.push(format!(
                "{} already running {} recorded too (--no-children excludes {})",
                count(n),
                are(n),
                if n == 1 { "it" } else { "them" }
            )),
        }
        if self.beyond > 0 {
            let (more, are) = (count(self.beyond), are(self.beyond));
            notes.push(format!("{more} already running {are} not recorded: the limit is {MOST}"));
        }
        if let (n, Some(why)) = &self.refused {
            notes.push(format!("{} already running cannot be recorded: {why}", count(*n)));
        }
        notes
    }
}

/// Formats a number of child processes: `1 child process`, `2 child processes`.
pub fn count(n: usize) -> String {
    match n {
        1 => "1 child process".to_owned(),
        n => format!("{n} child processes"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_children_that_are_already_running() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let own = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
        let family = Family::of(std::slice::from_ref(&own), true);
        assert_eq!(family.processes[0].pid(), own.pid());
        assert!(family.has_descendants());
        assert!(family.processes.iter().any(|p| p.pid() == cat.id().cast_signed()));
        let alone = family.targets_only("no room");
        assert_eq!((alone.processes.len(), alone.has_descendants()), (1, false));
        assert!(alone.notes()[0].ends_with("no room"), "{:?}", alone.notes());
        assert_eq!(Family::of(&[own], false).processes.len(), 1);
        drop(cat.stdin.take());
        let _ = cat.wait();
    }

    #[test]
    fn notes_agree_in_number() {
        let own = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
        let mut family = Family::of(std::slice::from_ref(&own), false);
        assert_eq!(family.notes(), Vec::<String>::new());
        family.processes.push(own);
        family.beyond = 2;
        family.refused = (1, Some("no rights".into()));
        let notes = family.notes();
        let first = "1 child process already running is recorded too (--no-children excludes it)";
        assert_eq!(notes[0], first);
        let second = "2 child processes already running are not recorded: the limit is 1024";
        assert_eq!(notes[1], second);
        assert!(notes[2].contains("no rights"), "{notes:?}");
    }
}

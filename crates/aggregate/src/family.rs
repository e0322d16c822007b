//! The targets and the processes that they had forked before: of a server whose master only waits,
//! those do all the work.

use std::collections::BTreeSet;
use std::sync::Arc;

use process::{OpenError, Process};

/// More of them are not taken in: each costs descriptors and a look at all its mappings.
pub const MOST: usize = 1024;
/// How often `/proc` is gone through for those that are forked meanwhile.
const MOST_LOOKS: usize = 4;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// The targets, then their descendants by process id.
    pub processes: Vec<Arc<Process>>,
    targets: usize,
    /// Descendants beyond [`MOST`].
    beyond: usize,
    /// Why some could not be opened, and how many.
    refused: (usize, Option<String>),
}

impl Family {
    /// The targets with their living descendants, or without.
    pub fn of(targets: &[Arc<Process>], descendants: bool) -> Self {
        let targets_only =
            Self { processes: targets.to_vec(), targets: targets.len(), ..Self::default() };
        if descendants { targets_only.with_descendants() } else { targets_only }
    }

    fn with_descendants(mut self) -> Self {
        // One costs three descriptors; where the limit cannot be raised, opening says so.
        let _ = host::raise_nofile();
        let mut seen: BTreeSet<i32> = self.processes.iter().map(|p| p.pid()).collect();
        // A recording of the shell that it runs in does not record itself.
        seen.insert(std::process::id().cast_signed());
        for _ in 0..MOST_LOOKS {
            let known: Vec<i32> = self.processes.iter().map(|p| p.pid()).collect();
            let found = process::descendants(&known, &seen);
            if found.is_empty() {
                break;
            }
            for pid in found {
                seen.insert(pid);
                self.take_in(pid);
            }
        }
        self
    }

    fn take_in(&mut self, pid: i32) {
        if self.processes.len() - self.targets >= MOST {
            self.beyond += 1;
            return;
        }
        match Process::open(pid) {
            Ok(process) => {
                // It may have ended, and another one has its number: only a child of ours counts.
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
            // Gone, or a zombie.
            Err(_) => {}
        }
    }

    /// Without the descendants, which cannot be recorded for this reason.
    pub fn targets_only(&self, why: &str) -> Self {
        let mut processes = self.processes.clone();
        let more = processes.split_off(self.targets).len() + self.refused.0;
        let refused = (more, Some(why.to_owned()));
        Self { processes, targets: self.targets, beyond: self.beyond, refused }
    }

    /// Whether it is more than the targets.
    pub fn has_descendants(&self) -> bool {
        self.processes.len() > self.targets
    }

    /// Text for the profile: who is recorded besides the targets, and who is not.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        match self.processes.len() - self.targets {
            0 => {}
            n => notes.push(format!(
                "{} that ran before {} recorded too (--no-children leaves them out)",
                count(n),
                if n == 1 { "is" } else { "are" }
            )),
        }
        if self.beyond > 0 {
            let more = count(self.beyond);
            notes.push(format!("{more} that ran before are not recorded: they are too many"));
        }
        if let (n, Some(why)) = &self.refused {
            notes.push(format!("{} that ran before cannot be recorded: {why}", count(*n)));
        }
        notes
    }
}

/// So many children, in words.
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
    fn children_that_run_already() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let own = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
        let family = Family::of(std::slice::from_ref(&own), true);
        assert_eq!(family.processes[0].pid(), own.pid());
        assert!(family.processes.iter().any(|p| p.pid() == cat.id().cast_signed()));
        let alone = family.targets_only("no room");
        assert_eq!(alone.processes.len(), 1);
        assert!(alone.notes()[0].ends_with("no room"), "{:?}", alone.notes());
        assert_eq!(Family::of(&[own], false).processes.len(), 1);
        drop(cat.stdin.take());
        let _ = cat.wait();
    }

    #[test]
    fn notes_name_numbers() {
        let own = Arc::new(Process::open(std::process::id().cast_signed()).expect("we live"));
        let mut family = Family::of(std::slice::from_ref(&own), false);
        assert_eq!(family.notes(), Vec::<String>::new());
        family.processes.push(own);
        family.beyond = 2;
        family.refused = (1, Some("no rights".into()));
        let notes = family.notes();
        assert!(notes[0].starts_with("1 child process that ran before is recorded"), "{notes:?}");
        assert!(notes[1].starts_with("2 child processes"), "{notes:?}");
        assert!(notes[2].contains("no rights"), "{notes:?}");
    }
}

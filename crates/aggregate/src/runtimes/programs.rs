//! Lists the BPF programs of the runtimes that run with each sample.
//!
//! An event can only have one program: the first of this list. Each program calls the next one with
//! a tail call.

use events::SampleProgram;

/// The owner of a program. Programs run in the order of their owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The runtime in this row of the table.
    Runtime(usize),
    /// The program that follows chains of frames, for all runtimes.
    Chains,
}

/// A program and its owner.
pub(super) type Entry<P> = (Owner, P);

/// The programs, ordered by owner. Tests use other programs than BPF's.
pub(super) struct SamplePrograms<P = SampleProgram> {
    list: Vec<Entry<P>>,
    /// The owner of the program that the events have.
    running: Option<Owner>,
}

impl<P> Default for SamplePrograms<P> {
    fn default() -> Self {
        Self { list: Vec::new(), running: None }
    }
}

impl<P> SamplePrograms<P> {
    /// The programs that run directly before and after a new program of `owner`.
    pub fn neighbors(&self, owner: Owner) -> (Option<&Entry<P>>, Option<&Entry<P>>) {
        let at = self.list.partition_point(|(o, _)| *o < owner);
        (at.checked_sub(1).and_then(|before| self.list.get(before)), self.list.get(at))
    }

    /// Adds a program. The caller has set up the tail calls from and to its neighbors.
    pub fn insert(&mut self, owner: Owner, program: P) {
        let at = self.list.partition_point(|(o, _)| *o < owner);
        self.list.insert(at, (owner, program));
    }

    /// Removes a program that cannot run.
    pub fn remove(&mut self, owner: Owner) {
        self.list.retain(|(o, _)| *o != owner);
        self.running = self.running.filter(|o| *o != owner);
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The first program, if the events do not have it yet. The next call assumes that they do.
    pub fn for_events(&mut self) -> Option<(Owner, &P)> {
        let (owner, program) = self.list.first()?;
        (self.running.replace(*owner) != Some(*owner)).then_some((*owner, program))
    }

    /// The owners of all programs.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.list.iter().map(|(owner, _)| *owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_in_the_order_of_their_owners_and_events_have_the_first() {
        let mut programs = SamplePrograms::default();
        assert!(programs.is_empty() && programs.for_events().is_none());
        let [first, second, third] = [0, 1, 2].map(Owner::Runtime);
        for (owner, program) in [(Owner::Chains, "chains"), (second, "second")] {
            programs.insert(owner, program);
        }
        assert!(programs.owners().eq([second, Owner::Chains]) && !programs.is_empty());
        let (chains, own) = ((Owner::Chains, "chains"), (second, "second"));
        assert_eq!(programs.neighbors(first), (None, Some(&own)));
        assert_eq!(programs.neighbors(third), (Some(&own), Some(&chains)));
        assert_eq!(programs.neighbors(second), (None, Some(&own)));

        assert_eq!(programs.for_events(), Some((second, &"second")));
        assert_eq!(programs.for_events(), None, "the events have it");
        programs.insert(first, "first");
        assert_eq!(programs.for_events(), Some((first, &"first")));
        programs.remove(second);
        assert_eq!(programs.for_events(), None);
        assert!(programs.owners().eq([first, Owner::Chains]));
        programs.remove(first);
        assert_eq!(programs.for_events(), Some((Owner::Chains, &"chains")));
    }
}

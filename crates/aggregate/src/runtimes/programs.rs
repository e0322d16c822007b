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

pub(super) type Entry = (Owner, SampleProgram);

/// The programs, ordered by owner.
#[derive(Default)]
pub(super) struct SamplePrograms {
    list: Vec<Entry>,
    /// The owner of the program that the events have.
    running: Option<Owner>,
}

impl SamplePrograms {
    /// The programs that run directly before and after a new program of `owner`.
    pub fn neighbors(&self, owner: Owner) -> (Option<&Entry>, Option<&Entry>) {
        let at = self.list.partition_point(|(o, _)| *o < owner);
        (at.checked_sub(1).and_then(|before| self.list.get(before)), self.list.get(at))
    }

    /// Adds a program. The caller has set up the tail calls from and to its neighbors.
    pub fn insert(&mut self, owner: Owner, program: SampleProgram) {
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
    pub fn for_events(&mut self) -> Option<(Owner, &SampleProgram)> {
        let (owner, program) = self.list.first()?;
        (self.running.replace(*owner) != Some(*owner)).then_some((*owner, program))
    }

    /// The owners of all programs.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.list.iter().map(|(owner, _)| *owner)
    }
}

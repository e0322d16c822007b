//! The BPF programs that runtimes have run with each sample.
//!
//! An event takes one program: the first of this list. Each leads to the next by a tail call.

use events::SampleProgram;

/// Whose program it is. The order is that in which programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The runtime in this row of the table.
    Runtime(usize),
    /// That follows chains, for all runtimes.
    Chains,
}

pub(super) type Entry = (Owner, SampleProgram);

/// See the module.
#[derive(Default)]
pub(super) struct SamplePrograms {
    list: Vec<Entry>,
    /// The one that events have.
    running: Option<Owner>,
}

impl SamplePrograms {
    /// The programs between which a new one of `owner` runs.
    pub fn neighbors(&self, owner: Owner) -> (Option<&Entry>, Option<&Entry>) {
        let at = self.list.partition_point(|(o, _)| *o < owner);
        (at.checked_sub(1).and_then(|before| self.list.get(before)), self.list.get(at))
    }

    /// Adds a program whose neighbors lead to each other.
    pub fn insert(&mut self, owner: Owner, program: SampleProgram) {
        let at = self.list.partition_point(|(o, _)| *o < owner);
        self.list.insert(at, (owner, program));
    }

    /// It does not run.
    pub fn remove(&mut self, owner: Owner) {
        self.list.retain(|(o, _)| *o != owner);
        self.running = self.running.filter(|o| *o != owner);
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The first, if events do not have it yet. From now on they are taken to have it.
    pub fn for_events(&mut self) -> Option<(Owner, &SampleProgram)> {
        let (owner, program) = self.list.first()?;
        (self.running.replace(*owner) != Some(*owner)).then_some((*owner, program))
    }

    /// Who has programs.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.list.iter().map(|(owner, _)| *owner)
    }
}

//! Tracks which runtimes run in which processes of a recording, and calls them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use events::Chains;
use image::Memory;
use process::{Process, ProcessMemory};
use rustc_hash::FxHashMap;
use unwind::Frame;

use super::chains::{ChainQueues, OwnedChain, WhichChain};
use super::contract::{
    Captured, CodeAddress, MergedFrame, OffCpuThread, Presence, Refused, Roles, Row, Runtime,
    SampledThread, UnwoundStack,
};
use super::programs::{Owner, SamplePrograms};
use crate::ids::{Function, RuntimeIndex, ThreadId};
use crate::processes::{Processes, Tracked};

/// Number of searches within which the runtime of a new process must become ready.
const MAX_TRIES: u32 = 100;
/// Maximum number of notes for the profile's comments.
const MAX_NOTES: usize = 32;

/// A set of rows of the table, one bit each.
type Rows = u32;

/// The runtimes found in one process, by role.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attached {
    /// Generation of the mappings when they were last searched.
    generation: Option<u64>,
    all: Rows,
    stacks: Rows,
    frames: Rows,
    code: Rows,
    not_ready: Rows,
    tries: u32,
}

/// What [`Runtimes::read`] has read from a thread that does not run.
#[derive(Debug, Default)]
pub struct OffCpuState {
    pub(crate) captured: Option<Captured>,
    pub(crate) chain: Option<OwnedChain>,
}

/// A native stack of a process, to be merged by [`Runtimes::merge`].
pub(crate) struct Native<'a> {
    pub pid: i32,
    pub tracked: &'a Tracked,
    pub frames: &'a [Frame],
    pub is_whole: bool,
    pub memory: &'a dyn Memory,
}

/// All runtimes, and the processes that they run in.
pub struct Runtimes {
    rows: Vec<(Row, Box<dyn Runtime>)>,
    by_pid: FxHashMap<i32, Attached>,
    /// Runtimes that were found in any process.
    found: Rows,
    /// Runtimes whose [`Runtime::load_program`] was called.
    programs_requested: Rows,
    chains: ChainQueues,
    chains_requested: bool,
    programs: SamplePrograms,
    notes: Vec<String>,
}

impl Runtimes {
    pub(crate) fn new(rows: &[Row]) -> Self {
        debug_assert!(rows.len() <= Rows::BITS as usize);
        Self {
            rows: rows.iter().map(|row| (*row, (row.new)())).collect(),
            by_pid: FxHashMap::default(),
            found: 0,
            programs_requested: 0,
            chains: ChainQueues::default(),
            chains_requested: false,
            programs: SamplePrograms::default(),
            notes: Vec::new(),
        }
    }

    /// Searches the mappings added since the last call for runtimes.
    pub fn search(&mut self, processes: &Processes) {
        self.attach_all(processes);
        self.rows.iter_mut().for_each(|(_, runtime)| runtime.refresh(processes));
    }

    /// Like [`Runtimes::search`], and also loads the BPF programs that must run with each sample: see
    /// [`Runtimes::program_for_events`].
    pub fn search_and_load_programs(&mut self, processes: &Processes) {
        self.attach_all(processes);
        self.load_programs();
        self.rows.iter_mut().for_each(|(_, runtime)| runtime.refresh(processes));
    }

    fn attach_all(&mut self, processes: &Processes) {
        for (pid, tracked) in processes.iter() {
            self.attach(pid, tracked);
        }
    }

    fn attach(&mut self, pid: i32, tracked: &Tracked) {
        let generation = tracked.space.generation();
        let mut at = self.by_pid.get(&pid).copied().unwrap_or_default();
        let changed = at.generation != Some(generation);
        if !changed && at.not_ready == 0 {
            return;
        }
        at.tries = if changed { 0 } else { at.tries + 1 };
        at.generation = Some(generation);
        let wanted = if changed { Rows::MAX } else { at.not_ready };
        for i in 0..self.rows.len() {
            if wanted & 1 << i == 0 {
                continue;
            }
            let presence = self.rows[i].1.attach(pid, tracked);
            let last = at.tries >= MAX_TRIES;
            at.not_ready = set_row(at.not_ready, i, presence == Presence::NotReady && !last);
            let (present, roles) = match presence {
                Presence::Attached(roles) => (true, roles),
                Presence::Absent | Presence::NotReady => (false, Roles::default()),
            };
            // Every process counts as one that may compile code, which is not worth logging.
            if present && at.all & 1 << i == 0 && (roles.stacks || roles.frames) {
                tracing::info!(pid, runtime = self.rows[i].0.name, "runtime found");
            }
            at.stacks = set_row(at.stacks, i, roles.stacks);
            at.frames = set_row(at.frames, i, roles.frames);
            at.code = set_row(at.code, i, roles.code);
            at.all = set_row(at.all, i, present);
            if present {
                self.found |= 1 << i;
                self.follow_chains(pid, i);
            } else if self.chains.get(pid).is_some_and(|f| usize::from(f.runtime) == i) {
                self.chains.forget(pid);
            }
        }
        self.by_pid.insert(pid, at);
    }

    fn follow_chains(&mut self, pid: i32, row: usize) {
        let (Row { name, .. }, runtime) = &self.rows[row];
        if let Some(followed) = self.chains.get(pid) {
            if usize::from(followed.runtime) != row && runtime.chain_layout(pid).is_some() {
                let note = format!(
                    "no {name} frames for process {pid}: only one runtime's frames can be followed"
                );
                self.note(note);
            }
            return;
        }
        if let Some(layout) = runtime.chain_layout(pid)
            && let Err(e) = self.chains.follow(pid, row as RuntimeIndex, layout)
        {
            let note = format!("no {name} frames for process {pid}: {e}");
            self.note(note);
        }
    }

    fn load_programs(&mut self) {
        for i in 0..self.rows.len() {
            if self.found & !self.programs_requested & 1 << i == 0 {
                continue;
            }
            self.programs_requested |= 1 << i;
            match self.rows[i].1.load_program() {
                Ok(Some(program)) => self.add_program(Owner::Runtime(i), program),
                Ok(None) => {}
                Err(e) => self.refused(Owner::Runtime(i), &*e),
            }
        }
        if !self.chains_requested && self.chains.runtimes().next().is_some() {
            self.chains_requested = true;
            match self.chains.load() {
                Ok(program) => self.add_program(Owner::Chains, program),
                Err(e) => self.refused(Owner::Chains, &e),
            }
        }
    }

    /// Inserts a program between its neighbors in the sequence of tail calls.
    fn add_program(&mut self, owner: Owner, program: events::SampleProgram) {
        let Self { programs, rows, .. } = self;
        let mut link = |from: Owner, to: &events::SampleProgram| match from {
            Owner::Runtime(i) => rows[i].1.then(to),
            Owner::Chains => Err(Refused::from("the program that follows chains must come last")),
        };
        let (before, after) = programs.neighbors(owner);
        let linked = after.map_or(Ok(()), |(_, next)| link(owner, next));
        let linked = linked.and_then(|()| before.map_or(Ok(()), |(from, _)| link(*from, &program)));
        match linked {
            Ok(()) => self.programs.insert(owner, program),
            Err(e) => self.refused(owner, &*e),
        }
    }

    /// The BPF program to run with each sample, if it has changed since the last call; it calls the
    /// other programs. If it cannot run, call [`Runtimes::refused`], then this function again.
    pub fn program_for_events(&mut self) -> Option<(Owner, OwnedFd)> {
        let (owner, program) = self.programs.for_events()?;
        match program.descriptor() {
            Ok(descriptor) => Some((owner, descriptor)),
            Err(e) => {
                self.refused(owner, &e);
                None
            }
        }
    }

    /// Removes a BPF program that cannot run.
    pub fn refused(&mut self, owner: Owner, why: &dyn std::error::Error) {
        tracing::info!(?owner, %why, "BPF program refused");
        self.programs.remove(owner);
        match owner {
            Owner::Runtime(i) => self.rows[i].1.program_refused(&why.to_string()),
            Owner::Chains => {
                self.chains.refuse();
                let note = format!("no {} frames: {why}", self.with_chains());
                self.note(note);
            }
        }
    }

    /// The names of the runtimes whose BPF programs run with each sample; `None` if there are none.
    pub fn with_programs(&self) -> Option<String> {
        let chains = self.programs.owners().any(|o| o == Owner::Chains);
        let own = self.programs.owners().filter_map(|o| match o {
            Owner::Runtime(i) => Some(i),
            Owner::Chains => None,
        });
        let followed = self.chains.runtimes().map(usize::from).filter(|_| chains);
        (!self.programs.is_empty()).then(|| self.names(own.chain(followed)))
    }

    /// Whether the runtime of any process keeps its frames in chains.
    pub fn have_chains(&self) -> bool {
        self.chains.runtimes().next().is_some()
    }

    /// The names of the runtimes that keep their frames in chains.
    pub fn with_chains(&self) -> String {
        self.names(self.chains.runtimes().map(usize::from))
    }

    fn names(&self, rows: impl Iterator<Item = usize>) -> String {
        let rows: BTreeSet<usize> = rows.collect();
        let names: Vec<&str> = rows.into_iter().map(|i| self.rows[i].0.name).collect();
        names.join(" and ")
    }

    /// Uses BPF programs that are already running to follow chains, for the processes found so far
    /// and those found later.
    pub fn follow_chains_by(&mut self, chains: Chains) {
        if let Err(e) = self.chains.follow_by(chains) {
            let note = format!("no {} frames for some processes: {e}", self.with_chains());
            self.note(note);
        }
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Starts a new round of reading events.
    pub(crate) fn next_round(&mut self) {
        self.rows.iter_mut().for_each(|(_, runtime)| runtime.next_round());
        self.chains.drain();
    }

    /// Forgets a process that has ended or executes another program.
    pub(crate) fn forget(&mut self, pid: i32) {
        if self.by_pid.remove(&pid).is_some() {
            self.rows.iter_mut().for_each(|(_, runtime)| runtime.detach(pid));
            self.chains.forget(pid);
        }
    }

    pub(crate) fn thread_created(&mut self, pid: i32) {
        for i in bits(self.attached(pid).all) {
            self.rows[i].1.thread_created(pid);
        }
    }

    pub(crate) fn thread_ended(&mut self, id: ThreadId) {
        for i in bits(self.attached(id.pid).all) {
            self.rows[i].1.thread_ended(id);
        }
    }

    /// The runtimes found in a process; none if it has not been searched yet.
    #[inline]
    pub(crate) fn attached(&self, pid: i32) -> Attached {
        self.by_pid.get(&pid).copied().unwrap_or_default()
    }

    /// The stacks and labels that a sampled thread kept elsewhere.
    #[inline]
    pub(crate) fn captured(
        &mut self,
        at: Attached,
        thread: &SampledThread<'_>,
    ) -> Option<Captured> {
        bits(at.stacks).find_map(|i| self.rows[i].1.captured(thread))
    }

    /// Whether [`Runtimes::read`] can find anything in the threads of a process that do not run,
    /// given their thread pointer if known.
    pub fn read_threads_of(&self, pid: i32, thread_pointer: Option<u64>) -> bool {
        let has_chain = || thread_pointer.is_some() && self.chains.get(pid).is_some();
        self.attached(pid).stacks != 0 || has_chain()
    }

    /// Whether [`Runtimes::read`] needs the thread pointers of the threads of a process.
    pub fn need_thread_pointers_of(&self, pid: i32) -> bool {
        self.chains.get(pid).is_some()
    }

    /// Prepares for [`Runtimes::read`] of a thread, before it is stopped.
    pub fn prepare_to_read(&mut self, process: &Process, memory: &ProcessMemory, tid: i32) {
        for i in bits(self.attached(process.pid()).stacks) {
            self.rows[i].1.prepare_to_read(process, memory, tid);
        }
    }

    /// Reads the stacks and labels that a stopped or sleeping thread keeps elsewhere. The caller
    /// makes sure that it does not run meanwhile.
    pub fn read(&mut self, thread: &OffCpuThread<'_>) -> OffCpuState {
        let (pid, pointer) = (thread.process.pid(), thread.thread_pointer);
        let chain = pointer.and_then(|at| self.read_chain(pid, thread.memory, at));
        let mut stacks = bits(self.attached(pid).stacks);
        let captured = stacks.find_map(|i| self.rows[i].1.read(thread));
        OffCpuState { captured, chain }
    }

    pub(crate) fn read_chain(
        &self,
        pid: i32,
        memory: &ProcessMemory,
        pointer: u64,
    ) -> Option<OwnedChain> {
        self.chains.read(pid, memory, pointer)
    }

    /// Merges the frames of a runtime into a sampled stack and returns that runtime.
    #[inline]
    pub(crate) fn merge_sampled(
        &mut self,
        at: Attached,
        (id, which): (ThreadId, WhichChain),
        stack: &Native<'_>,
        out: &mut Vec<MergedFrame>,
    ) -> Option<RuntimeIndex> {
        if at.frames == 0 {
            return None;
        }
        let chain = self.chains.take(id, which);
        self.merge(at, stack, chain.as_ref(), out)
    }

    /// Like [`Runtimes::merge_sampled`], with a chain that is known to belong to the native stack.
    pub(crate) fn merge(
        &mut self,
        at: Attached,
        stack: &Native<'_>,
        chain: Option<&OwnedChain>,
        out: &mut Vec<MergedFrame>,
    ) -> Option<RuntimeIndex> {
        let has_chains = self.chains.get(stack.pid).map(|followed| followed.runtime);
        let merged = bits(at.frames).find(|i| {
            let chain = chain.filter(|_| has_chains == Some(*i as RuntimeIndex));
            if chain.is_none() && has_chains == Some(*i as RuntimeIndex) {
                return false;
            }
            let Native { pid, tracked, frames, is_whole, memory } = *stack;
            let stack = UnwoundStack { pid, tracked, frames, is_whole, memory, chain };
            self.rows[*i].1.merge(&stack, out)
        });
        merged.map(|i| i as RuntimeIndex)
    }

    /// The runtime of a frame in memory without a file, and that runtime's number for the frame. As
    /// such frames are rare, a process that has not been searched yet is searched now.
    pub(crate) fn code_at(&mut self, code: &CodeAddress<'_>) -> Option<(RuntimeIndex, u32)> {
        if !self.by_pid.contains_key(&code.pid) {
            self.attach(code.pid, code.tracked);
        }
        let at = self.attached(code.pid);
        let mut named =
            bits(at.code).filter_map(|i| Some((i as RuntimeIndex, self.rows[i].1.code_at(code)?)));
        named.next()
    }

    /// Lets runtimes name remaining frames once the recording is over.
    pub fn finish(&mut self) {
        self.rows.iter_mut().for_each(|(_, runtime)| runtime.finish());
    }

    /// The functions of a frame, the innermost inlined call first.
    pub fn functions(&self, runtime: RuntimeIndex, index: u32) -> Vec<Function> {
        let row = self.rows.get(usize::from(runtime));
        row.map_or_else(Vec::new, |(_, runtime)| runtime.functions(index))
    }

    /// The name of the mapping that profiles show for a runtime's frames without an address.
    pub fn mapping(&self, runtime: RuntimeIndex) -> &'static str {
        self.rows.get(usize::from(runtime)).map_or("[unmapped]", |(row, _)| row.mapping)
    }

    /// Notes for the profile's comments.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.rows.iter().flat_map(|(_, r)| r.notes()).collect();
        notes.extend_from_slice(&self.notes);
        let mut count = |n: u64, what: String| {
            if n > 0 {
                notes.push(format!("{what}: {n}"));
            }
        };
        let mut missing: Vec<_> = self.chains.missing.iter().collect();
        missing.sort_unstable_by_key(|(row, _)| **row);
        for (row, lacking) in missing {
            let name = self.rows[usize::from(*row)].0.name;
            let what = |why| format!("{name} samples without {name} frames ({why})");
            count(lacking.fresh, what("process not followed yet"));
            count(lacking.unmatched, what("frames did not arrive"));
        }
        let lost = format!("{} stacks dropped because the buffer was full", self.with_chains());
        count(self.chains.lost(), lost);
        notes
    }
}

/// Adds a row to a set or removes it.
fn set_row(rows: Rows, row: usize, is_in: bool) -> Rows {
    rows & !(1 << row) | Rows::from(is_in) << row
}

/// The rows of a set, in order.
#[inline]
fn bits(rows: Rows) -> impl Iterator<Item = usize> {
    let sets = std::iter::successors(Some(rows), |rows| Some(rows & rows.wrapping_sub(1)));
    sets.take_while(|rows| *rows != 0).map(|rows| rows.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests;

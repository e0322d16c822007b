//! Python functions in place of the interpreter's evaluation loop.
//!
//! A BPF program reads a thread's chain of frames at each sample ([`events::Chains`]); which code
//! they execute is read from the target's memory when the sample is, some 20 ms later: code
//! objects live as long as their functions. A code object is looked at anew in each reading of
//! the rings, so that one whose memory was used again is not taken for the other.
//!
//! Chain and sample come by different ways and belong together by thread and time: those of a
//! sampling event are written in the same interrupt, and a sample of waiting says its chain's time.

mod merge;
mod program;
mod read;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use events::{ChainEnd, Chains};
use process::ProcessMemory;
use pyruntime::Runtime;
use rustc_hash::FxHashMap;
use unwind::Frame;

use self::merge::Part;
pub use self::program::OwnedChain;
use self::program::Program;
use crate::ids::{Function, PythonIndex, ThreadId};
use crate::processes::{Processes, Tracked};

/// A frame that cannot be named: its code object had gone before it could be read.
const GONE: &str = "[python function that is gone]";

/// Which of its thread's chains belongs to a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichChain {
    /// That of about this time, of the same interrupt.
    Near(u64),
    /// That of this time.
    At(u64),
    /// None was followed.
    None,
}

/// A frame of a merged stack, leaf first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergedFrame {
    /// A native frame by its index.
    Native(usize),
    /// A Python function.
    Python(PythonIndex),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NamedLine {
    name: Arc<str>,
    file: Option<Arc<str>>,
    first_line: u32,
    line: u32,
}

/// Functions and lines of all interpreters, by index.
#[derive(Default)]
struct Names {
    lines: Vec<NamedLine>,
    index: FxHashMap<NamedLine, PythonIndex>,
}

impl Names {
    fn index_of(&mut self, line: NamedLine) -> PythonIndex {
        if let Some(index) = self.index.get(&line) {
            return *index;
        }
        let index = self.lines.len() as PythonIndex;
        self.lines.push(line.clone());
        self.index.insert(line, index);
        index
    }

    fn gone(&mut self) -> PythonIndex {
        self.index_of(NamedLine { name: GONE.into(), file: None, first_line: 0, line: 0 })
    }
}

/// What was lost, for the profile's comments.
#[derive(Debug, Default)]
struct Losses {
    unmatched: u64,
    cut: u64,
    homeless: u64,
    gone: u64,
    fresh: u64,
}

/// The interpreters among the targets.
#[derive(Default)]
pub struct Python {
    chains: Option<Chains>,
    /// Why there are no chains.
    unavailable: Option<String>,
    programs: FxHashMap<i32, Program>,
    /// The address spaces that were searched, by their generation.
    looked: FxHashMap<i32, u64>,
    names: Names,
    losses: Losses,
    notes: Vec<String>,
    parts: Vec<Part>,
    round: u64,
}

impl Python {
    /// A new reading of the rings begins: chains are read before the samples they belong to.
    pub(crate) fn next_round(&mut self) {
        self.round += 1;
        self.read_chains();
    }

    fn read_chains(&mut self) {
        let Some(chains) = &mut self.chains else { return };
        chains.drain(|chain| {
            if let Some(program) = self.programs.get_mut(&chain.pid) {
                program.add_chain(chain);
            }
        });
    }

    /// The process runs another program now.
    pub(crate) fn forget(&mut self, pid: i32) {
        self.looked.remove(&pid);
        if self.programs.remove(&pid).is_some()
            && let Some(chains) = &mut self.chains
        {
            chains.forget(pid);
        }
    }

    /// Looks for interpreters in what was mapped since the last time.
    fn find(&mut self, processes: &Processes) -> Vec<(i32, Runtime)> {
        let mut found = Vec::new();
        for (pid, tracked) in processes.iter() {
            let generation = tracked.space.generation();
            if self.looked.insert(pid, generation) == Some(generation)
                || self.programs.contains_key(&pid)
            {
                continue;
            }
            match program::find(tracked) {
                Ok(runtime) => found.extend(runtime.map(|r| (pid, r))),
                Err(e) => self.note(format!("no Python frames of process {pid}: {e}")),
            }
        }
        found
    }

    /// Looks for interpreters without loading anything for them: chains are read while their threads
    /// stand still, or followed by what was given to [`Python::follow_by`].
    pub fn look_to_read(&mut self, processes: &Processes) {
        for (pid, runtime) in self.find(processes) {
            self.follow(pid, Program::new(runtime));
        }
    }

    /// Has chains followed by programs that run already, of the interpreters found so far and of
    /// those to come.
    pub fn follow_by(&mut self, chains: Chains) {
        self.chains = Some(chains);
        for (pid, program) in std::mem::take(&mut self.programs) {
            self.follow(pid, program);
        }
    }

    fn follow(&mut self, pid: i32, program: Program) {
        let chains = self.chains.as_mut();
        match chains.map_or(Ok(()), |chains| chains.follow(pid, &program.chain_layout())) {
            Ok(()) => {
                self.programs.insert(pid, program);
            }
            Err(e) => self.note(format!("no Python frames of process {pid}: {e}")),
        }
    }

    /// Whether there is an interpreter among the targets.
    pub fn is_there(&self) -> bool {
        !self.programs.is_empty()
    }

    /// Whether the process is an interpreter's.
    pub fn runs_in(&self, pid: i32) -> bool {
        self.programs.contains_key(&pid)
    }

    /// The chain of a thread that stands still, by its thread pointer. `None` where its process is
    /// no interpreter's.
    pub fn read_chain(
        &self,
        pid: i32,
        memory: &ProcessMemory,
        thread_pointer: u64,
    ) -> Option<OwnedChain> {
        Some(self.programs.get(&pid)?.read_chain(memory, thread_pointer))
    }

    /// Looks for interpreters in what was mapped since the last time. With the first one found,
    /// gives the BPF program that has to run at samples.
    pub fn look(&mut self, processes: &Processes) -> Option<OwnedFd> {
        let mut to_attach = None;
        for (pid, runtime) in self.find(processes) {
            if self.chains.is_none() && self.unavailable.is_none() {
                match Chains::load().map(|c| (c.program(), c)) {
                    Ok((Ok(program), chains)) => {
                        to_attach = Some(program);
                        self.chains = Some(chains);
                    }
                    Ok((Err(e), _)) => self.set_unavailable(&e),
                    Err(e) => self.set_unavailable(&e),
                }
            }
            if self.chains.is_some() {
                self.follow(pid, Program::new(runtime));
            }
        }
        to_attach
    }

    /// What follows the frames, once there is an interpreter.
    pub fn chains(&self) -> Option<&Chains> {
        self.chains.as_ref()
    }

    /// Notes why Python frames cannot be had.
    pub fn set_unavailable(&mut self, why: &dyn std::error::Error) {
        self.chains = None;
        self.programs.clear();
        self.unavailable = Some(why.to_string());
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < 32 && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Merges the interpreter's frames at the time of a sample into its native stack, leaf first.
    /// False where there are none.
    pub(crate) fn merge(
        &mut self,
        id: ThreadId,
        which: WhichChain,
        tracked: &Tracked,
        native: &[Frame],
        is_whole: bool,
        out: &mut Vec<MergedFrame>,
    ) -> bool {
        if self.chains.is_none() || !self.programs.contains_key(&id.pid) {
            return false;
        }
        let mut chain = self.programs.get_mut(&id.pid).and_then(|p| p.take_chain(id.tid, which));
        if chain.is_none() && which != WhichChain::None {
            self.read_chains();
            chain = self.programs.get_mut(&id.pid).and_then(|p| p.take_chain(id.tid, which));
        }
        let Some(chain) = chain else {
            // The program was not followed yet when the sample was taken.
            let followed = self.programs.get(&id.pid).is_some_and(Program::has_chains);
            if followed && which != WhichChain::None {
                self.losses.unmatched += 1;
            } else {
                self.losses.fresh += 1;
            }
            return false;
        };
        self.merge_chain(id.pid, &chain, tracked, native, is_whole, out)
    }

    /// As [`Python::merge`], with a chain that is known to be that of the native stack.
    pub(crate) fn merge_chain(
        &mut self,
        pid: i32,
        chain: &OwnedChain,
        tracked: &Tracked,
        native: &[Frame],
        is_whole: bool,
        out: &mut Vec<MergedFrame>,
    ) -> bool {
        let Some(program) = self.programs.get_mut(&pid) else { return false };
        match chain.end {
            ChainEnd::NoThread => return false,
            ChainEnd::Complete => {}
            ChainEnd::Unreadable | ChainEnd::TooMany => self.losses.cut += 1,
        }
        let style = program.style();
        let homeless = merge::merge(
            &chain.frames,
            style,
            native,
            is_whole,
            |at| program.evaluates(at),
            &mut self.parts,
        );
        self.losses.homeless += u64::from(homeless > 0);
        out.clear();
        for part in &self.parts {
            out.push(match part {
                Part::Native(i) => MergedFrame::Native(*i),
                Part::Python(i) => {
                    let frame = &chain.frames[*i];
                    let named = program.name(frame, tracked, self.round, &mut self.names);
                    MergedFrame::Python(named.unwrap_or_else(|| {
                        self.losses.gone += 1;
                        self.names.gone()
                    }))
                }
            });
        }
        true
    }

    /// The function of an index.
    pub fn function(&self, index: PythonIndex) -> Function {
        let Some(line) = self.names.lines.get(index as usize) else { return Function::named(GONE) };
        Function {
            name: line.name.clone(),
            system_name: line.name.clone(),
            file: line.file.clone(),
            line: line.line,
            column: 0,
            start_line: line.first_line,
        }
    }

    /// What a reader of the profile should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend(self.unavailable.iter().map(|why| format!("no Python frames: {why}")));
        let mut count = |n: u64, what: &str| {
            if n > 0 {
                notes.push(format!("{n} {what}"));
            }
        };
        let l = &self.losses;
        let lost = self.chains.as_ref().map_or(0, Chains::lost);
        count(l.fresh, "samples of Python without its frames: the process was new");
        count(l.unmatched, "samples of Python without its frames: they did not arrive");
        count(lost, "Python stacks found no room");
        count(l.cut, "Python stacks were cut short: unreadable, or more than 1000 frames");
        count(l.homeless, "Python stacks do not match their native stack frame by frame");
        count(l.gone, "Python frames whose code was gone before it could be read");
        notes
    }
}

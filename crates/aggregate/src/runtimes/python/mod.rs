//! Python functions in place of the interpreter's evaluation loop.
//!
//! A thread's chain of frames is followed in the moment of a sample ([`super::chains`]); which code
//! the frames execute is read from the target's memory when the sample is, some 20 ms later: code
//! objects live as long as their functions. A code object is looked at anew in each reading of
//! the rings, so that one whose memory was used again is not taken for the other.

mod merge;
mod program;

use std::sync::Arc;

use events::{ChainEnd, ChainLayout};
use rustc_hash::FxHashMap;

use self::merge::Part;
use self::program::Program;
use super::{MergedFrame, Presence, Roles, Runtime, UnwoundStack};
use crate::ids::Function;
use crate::processes::Tracked;

/// Index of a function and line.
type PythonIndex = u32;

/// A frame that cannot be named: its code object had gone before it could be read.
const GONE: &str = "[python function that is gone]";

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
    cut: u64,
    homeless: u64,
    gone: u64,
}

/// The interpreters among the targets.
#[derive(Default)]
struct Python {
    programs: FxHashMap<i32, Program>,
    names: Names,
    losses: Losses,
    notes: Vec<String>,
    parts: Vec<Part>,
    round: u64,
}

/// The runtime of a recording.
pub(super) fn new() -> Box<dyn Runtime> {
    Box::new(Python::default())
}

impl Runtime for Python {
    fn attach(&mut self, pid: i32, tracked: &Tracked) -> Presence {
        let present = Presence::Attached(Roles { frames: true, ..Roles::default() });
        if self.programs.contains_key(&pid) {
            return present;
        }
        match program::find(tracked) {
            Ok(Some(runtime)) => {
                self.programs.insert(pid, Program::new(runtime));
                present
            }
            Ok(None) => Presence::Absent,
            Err(e) => {
                self.note(format!("no Python frames of process {pid}: {e}"));
                Presence::Absent
            }
        }
    }

    fn detach(&mut self, pid: i32) {
        self.programs.remove(&pid);
    }

    fn next_round(&mut self) {
        self.round += 1;
    }

    fn chain_layout(&self, pid: i32) -> Option<ChainLayout> {
        self.programs.get(&pid).map(Program::chain_layout)
    }

    fn merge(&mut self, stack: &UnwoundStack<'_>, out: &mut Vec<MergedFrame>) -> bool {
        let Some(chain) = stack.chain else { return false };
        let Some(program) = self.programs.get_mut(&stack.pid) else { return false };
        match chain.end {
            ChainEnd::NoThread => return false,
            ChainEnd::Complete => {}
            ChainEnd::Unreadable | ChainEnd::TooMany => self.losses.cut += 1,
        }
        let style = program.style();
        let homeless = merge::merge(
            &chain.frames,
            style,
            stack.frames,
            stack.is_whole,
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
                    let named = program.name(frame, stack.tracked, self.round, &mut self.names);
                    MergedFrame::Own(named.unwrap_or_else(|| {
                        self.losses.gone += 1;
                        self.names.gone()
                    }))
                }
            });
        }
        true
    }

    fn functions(&self, index: u32) -> Vec<Function> {
        let Some(line) = self.names.lines.get(index as usize) else {
            return vec![Function::named(GONE)];
        };
        vec![Function {
            name: line.name.clone(),
            system_name: line.name.clone(),
            file: line.file.clone(),
            line: line.line,
            column: 0,
            start_line: line.first_line,
        }]
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        let mut count = |n: u64, what: &str| {
            if n > 0 {
                notes.push(format!("{n} {what}"));
            }
        };
        let l = &self.losses;
        count(l.cut, "Python stacks were cut short: unreadable, or more than 1000 frames");
        count(l.homeless, "Python stacks do not match their native stack frame by frame");
        count(l.gone, "Python frames whose code was gone before it could be read");
        notes
    }
}

impl Python {
    fn note(&mut self, text: String) {
        if self.notes.len() < 32 && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

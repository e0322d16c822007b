//! Replaces the native frames of the Python interpreter's evaluation loop with Python functions.
//!
//! A thread's chain of frames is followed at the moment of a sample ([`super::chains`]). The code
//! objects of the frames are read from the target's memory when the sample is read, about 20 ms
//! later, which works because they live as long as their functions. Each code object is checked
//! again in every round of reading events, in case its memory was reused for another one.

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

/// Index of a function and line in [`Names`].
type PythonIndex = u32;

/// Name of a frame whose code object was gone before it could be read.
const GONE: &str = "[python function that is gone]";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NamedLine {
    name: Arc<str>,
    file: Option<Arc<str>>,
    first_line: u32,
    line: u32,
}

/// The functions and lines of all interpreters, by index.
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

/// Counts of incomplete stacks and frames, for the profile's comments.
#[derive(Debug, Default)]
struct Losses {
    truncated: u64,
    unmatched: u64,
    gone: u64,
}

/// The Python interpreters in the targets.
#[derive(Default)]
struct Python {
    programs: FxHashMap<i32, Program>,
    names: Names,
    losses: Losses,
    notes: Vec<String>,
    parts: Vec<Part>,
    round: u64,
}

/// Creates the state for one recording.
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
                self.note(format!("no Python frames for process {pid}: {e}"));
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
            ChainEnd::Unreadable | ChainEnd::TooMany => self.losses.truncated += 1,
        }
        let style = program.style();
        let unmatched = merge::merge(
            &chain.frames,
            style,
            stack.frames,
            stack.is_whole,
            |at| program.evaluates(at),
            &mut self.parts,
        );
        self.losses.unmatched += u64::from(unmatched > 0);
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
                notes.push(format!("{what}: {n}"));
            }
        };
        let l = &self.losses;
        count(l.truncated, "truncated Python stacks (unreadable, or more than 1000 frames)");
        count(l.unmatched, "Python stacks that do not match their native stack frame by frame");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_not_repeated_and_limited() {
        let mut python = Python::default();
        assert!(python.notes().is_empty());
        python.note("once".into());
        python.note("once".into());
        assert_eq!(python.notes(), ["once"]);
        (0..40).for_each(|i| python.note(i.to_string()));
        assert_eq!(python.notes().len(), 32);
    }

    #[test]
    fn functions_are_those_of_the_line_and_the_same_line_has_one_index() {
        let mut python = Python::default();
        let line =
            |line| NamedLine { name: "f".into(), file: Some("f.py".into()), first_line: 10, line };
        let [a, b, again] = [11, 12, 11].map(|n| python.names.index_of(line(n)));
        assert!(a == again && a != b);
        let [function] = &python.functions(b)[..] else { panic!("one function") };
        assert_eq!((&*function.name, function.file.as_deref()), ("f", Some("f.py")));
        assert_eq!((function.line, function.start_line), (12, 10));
        let gone = python.names.gone();
        assert_eq!(&*python.functions(gone)[0].name, GONE);
        assert_eq!(&*python.functions(gone + 1)[0].name, GONE);
    }
}

//! One recording of waiting, for all kinds of a session that are made of it: `block` and `mutex`
//! load one set of BPF programs, or open one set of events, and read one set of rings.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use aggregate::recorder::Recorder;
use assemble::conclude::Named;
use events::WaitWants;

use super::by_bpf::{Taken, Waits};
use super::contentions::Contentions;
use crate::collector::{Collector, Progress, Request};
use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};

/// What the samples of waiting are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All waits.
    All,
    /// Those for locks.
    Locks,
}

/// A kind that is made of samples of waiting.
pub(super) trait Listener {
    /// What BPF programs have to sample for it.
    fn wants(&self) -> WaitWants;

    /// What it takes from perf events, where those are all there is.
    fn scope(&self) -> Scope;

    /// A sample came, maybe one that another kind wants.
    fn take(&mut self, recorder: &mut Recorder, taken: &Taken<'_>);

    /// Everything has come and has its names: the values, and what is to be said of them.
    fn conclude(self: Box<Self>, heard: &Heard<'_>, notes: &mut Vec<String>) -> Contentions;
}

/// What was recorded, at the end.
pub(super) struct Heard<'a> {
    pub waits: &'a Waits,
    pub named: &'a Named,
    pub options: &'a RecordOptions,
}

/// A recording of waiting that has been attached.
pub(super) trait Joint {
    /// Has it record for another kind as well. Gives the kind's number in it.
    fn join(&mut self, kind: Box<dyn Listener>) -> usize;

    /// Begins, for all that have joined.
    fn begin(&mut self) -> Result<(), RecordError>;

    /// Whether it has begun.
    fn has_begun(&self) -> bool;

    /// Reads what has come.
    fn poll(&mut self) -> Progress;

    /// Whether a followed process still runs.
    fn someone_lives(&mut self) -> bool;

    /// The recording ends.
    fn end(&mut self);

    /// Makes the profile of a kind; after that, nothing more is read.
    fn conclude(&mut self, number: usize, ended: Ended) -> Result<Outcome, RecordError>;
}

/// Where the kinds of a session find the recording that they share. It is gone with the last of
/// them.
#[derive(Default)]
pub(crate) struct Slot(RefCell<Option<Weak<RefCell<dyn Joint>>>>);

/// Takes part in the session's recording of waiting; the first to come attaches it by `open`.
pub(super) fn take_part(
    request: &Request<'_>,
    kind: Box<dyn Listener>,
    open: impl FnOnce() -> Result<Rc<RefCell<dyn Joint>>, RecordError>,
) -> Result<Box<dyn Collector>, RecordError> {
    let slot = &request.shared.get::<Slot>().0;
    let running = slot.borrow().as_ref().and_then(Weak::upgrade);
    let joint = match running.filter(|j| !j.borrow().has_begun()) {
        Some(joint) => joint,
        None => {
            let joint = open()?;
            *slot.borrow_mut() = Some(Rc::downgrade(&joint));
            joint
        }
    };
    let number = joint.borrow_mut().join(kind);
    Ok(Box::new(Part { joint, number, leads: false }))
}

/// A kind's part of the recording.
struct Part {
    joint: Rc<RefCell<dyn Joint>>,
    number: usize,
    /// It was the first to begin, and reads for all.
    leads: bool,
}

impl Collector for Part {
    fn begin(&mut self) -> Result<(), RecordError> {
        let mut joint = self.joint.borrow_mut();
        if !joint.has_begun() {
            joint.begin()?;
            self.leads = true;
        }
        Ok(())
    }

    fn poll(&mut self) -> Progress {
        if self.leads { self.joint.borrow_mut().poll() } else { Progress::default() }
    }

    fn someone_lives(&mut self) -> bool {
        self.joint.borrow_mut().someone_lives()
    }

    fn end(&mut self) {
        if self.leads {
            self.joint.borrow_mut().end();
        }
    }

    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        self.joint.borrow_mut().conclude(self.number, ended)
    }
}

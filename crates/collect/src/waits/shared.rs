//! Shares one recording of waits between the kinds of a session that need it: `block` and `mutex`
//! load one set of BPF programs, or open one set of events, and read one set of rings.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use aggregate::recorder::Recorder;
use assemble::conclude::Named;
use events::WaitWants;

use super::by_bpf::{StackSample, Waits};
use super::contentions::Contentions;
use crate::collector::{Collector, Progress, Request};
use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};

/// Which waits a kind needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All waits.
    All,
    /// Waits for locks.
    Locks,
}

/// A kind whose profile is made from wait samples.
pub(super) trait WaitProfile {
    /// What the BPF programs must sample for it.
    fn wants(&self) -> WaitWants;

    /// Which waits it needs in the perf-event fallback.
    fn scope(&self) -> Scope;

    /// Adds a sample. It may be one that only another kind needs.
    fn add_sample(&mut self, recorder: &mut Recorder, sampled: &StackSample<'_>);

    /// Returns the values, after all samples have been read and all frames named, and adds notes
    /// for the profile.
    fn conclude(
        self: Box<Self>,
        recorded: &FinishedWaits<'_>,
        notes: &mut Vec<String>,
    ) -> Contentions;
}

/// A finished recording.
pub(super) struct FinishedWaits<'a> {
    pub waits: &'a Waits,
    pub named: &'a Named,
    pub options: &'a RecordOptions,
}

/// An attached recording that several kinds share.
pub(super) trait SharedRecording {
    /// Adds a kind and returns its number in this recording.
    fn join(&mut self, kind: Box<dyn WaitProfile>) -> usize;

    /// Begins recording for all kinds that have joined.
    fn begin(&mut self) -> Result<(), RecordError>;

    /// Whether it has begun.
    fn has_begun(&self) -> bool;

    /// Reads new samples.
    fn poll(&mut self) -> Progress;

    /// Whether a followed process is still running.
    fn any_alive(&mut self) -> bool;

    /// Ends the recording.
    fn end(&mut self);

    /// Makes the profile of a kind. The first call reads the remaining samples.
    fn conclude(&mut self, number: usize, ended: Ended) -> Result<Outcome, RecordError>;
}

/// Where the kinds of a session find the recording that they share. The recording is dropped with
/// the last of them.
#[derive(Default)]
pub(crate) struct Slot(RefCell<Option<Weak<RefCell<dyn SharedRecording>>>>);

/// Joins the session's recording of waits. The first kind to join attaches it with `open`.
pub(super) fn join(
    request: &Request<'_>,
    kind: Box<dyn WaitProfile>,
    open: impl FnOnce() -> Result<Rc<RefCell<dyn SharedRecording>>, RecordError>,
) -> Result<Box<dyn Collector>, RecordError> {
    let slot = &request.shared.get::<Slot>().0;
    let running = slot.borrow().as_ref().and_then(Weak::upgrade);
    let recording = match running.filter(|j| !j.borrow().has_begun()) {
        Some(recording) => recording,
        None => {
            let recording = open()?;
            *slot.borrow_mut() = Some(Rc::downgrade(&recording));
            recording
        }
    };
    let number = recording.borrow_mut().join(kind);
    Ok(Box::new(Member { recording, number, leads: false }))
}

/// One kind's share of the recording.
struct Member {
    recording: Rc<RefCell<dyn SharedRecording>>,
    number: usize,
    /// This kind began first and reads for all.
    leads: bool,
}

impl Collector for Member {
    fn begin(&mut self) -> Result<(), RecordError> {
        let mut recording = self.recording.borrow_mut();
        if !recording.has_begun() {
            recording.begin()?;
            self.leads = true;
        }
        Ok(())
    }

    fn poll(&mut self) -> Progress {
        if self.leads { self.recording.borrow_mut().poll() } else { Progress::default() }
    }

    fn any_alive(&mut self) -> bool {
        self.recording.borrow_mut().any_alive()
    }

    fn end(&mut self) {
        if self.leads {
            self.recording.borrow_mut().end();
        }
    }

    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        self.recording.borrow_mut().conclude(self.number, ended)
    }
}

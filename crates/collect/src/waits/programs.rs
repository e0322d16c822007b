//! Records waits with BPF programs, for all kinds of a session.

use std::cell::RefCell;
use std::rc::Rc;

use aggregate::recorder::Recorder;
use assemble::conclude::{Named, Targets};
use events::WaitWants;

use super::by_bpf::{StackSample, Waits};
use super::contentions;
use super::shared::{FinishedWaits, SharedRecording, WaitProfile};
use crate::collector::{Progress, Request};
use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};

/// Attaches to the targets.
pub(super) fn open(request: &Request<'_>) -> Result<Rc<RefCell<dyn SharedRecording>>, RecordError> {
    let targets = request.targets();
    let waits = Waits::attach(request)?;
    let options = request.options.clone();
    let kinds = Vec::new();
    Ok(Rc::new(RefCell::new(BpfRecording {
        waits,
        targets,
        options,
        kinds,
        begun: false,
        named: None,
    })))
}

struct BpfRecording {
    waits: Waits,
    targets: Targets,
    options: RecordOptions,
    /// `None` once a kind's profile has been made.
    kinds: Vec<Option<Box<dyn WaitProfile>>>,
    begun: bool,
    /// The names of all frames, once everything has been read.
    named: Option<Named>,
}

/// Passes a sample to all kinds; each ignores the samples that it does not need.
fn add_to_all(
    kinds: &mut [Option<Box<dyn WaitProfile>>],
    recorder: &mut Recorder,
    sampled: &StackSample<'_>,
) {
    recorder.stats.kept += 1;
    for kind in kinds.iter_mut().flatten() {
        kind.add_sample(recorder, sampled);
    }
}

impl SharedRecording for BpfRecording {
    fn join(&mut self, kind: Box<dyn WaitProfile>) -> usize {
        self.kinds.push(Some(kind));
        self.kinds.len() - 1
    }

    fn begin(&mut self) -> Result<(), RecordError> {
        let wants = self.kinds.iter().flatten().map(|k| k.wants());
        self.waits.begin(wants.reduce(WaitWants::and).unwrap_or_default())?;
        self.begun = true;
        Ok(())
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn poll(&mut self) -> Progress {
        let kinds = &mut self.kinds;
        self.waits.poll(&mut |recorder, sampled| add_to_all(kinds, recorder, sampled))
    }

    fn any_alive(&mut self) -> bool {
        let kinds = &mut self.kinds;
        self.waits.any_alive(&mut |recorder, sampled| add_to_all(kinds, recorder, sampled))
    }

    fn end(&mut self) {
        let kinds = &mut self.kinds;
        self.waits.end(&mut |recorder, sampled| add_to_all(kinds, recorder, sampled));
    }

    fn conclude(&mut self, number: usize, ended: Ended) -> Result<Outcome, RecordError> {
        let Self { waits, kinds, .. } = self;
        let named = self.named.get_or_insert_with(|| {
            waits.finish(&mut |recorder, sampled| add_to_all(kinds, recorder, sampled));
            self.targets.name(&mut waits.reader.recorder)
        });
        let mut stats = waits.stats();
        let recorded = FinishedWaits { waits, named, options: &self.options };
        let kind = kinds.get_mut(number).and_then(Option::take);
        let values = kind.map(|k| k.conclude(&recorded, &mut stats.notes)).unwrap_or_default();
        let profile = contentions::conclude(
            values,
            &self.targets,
            (&waits.reader.recorder, named),
            waits.reader.time,
            &mut stats,
        )?;
        Ok(Outcome { profile, stats, ended })
    }
}

//! Defines the interface between a recording session and the collectors of the profile kinds.

use std::any::{Any, TypeId};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aggregate::family::Family;
use assemble::conclude::Targets;
use process::Process;

use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};

/// The progress of a recording.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// The time since the recording started.
    pub elapsed: Duration,
    /// Samples recorded so far.
    pub samples: u64,
    /// Records known to be lost so far. The final count may be higher.
    pub lost: u64,
}

/// Observes a recording, and can end it early.
pub trait Watcher {
    /// All threads are attached, and the recording starts.
    fn attached(&mut self) {}
    /// Called several times a second.
    fn progress(&mut self, progress: Progress);
    /// A file descriptor that becomes readable when the recording should end early.
    fn stop(&self) -> Option<BorrowedFd<'_>>;
}

/// Records one kind of profile. A collector is attached to its targets from its creation on and
/// detaches when it is dropped. At that point at the latest, it undoes all changes to a target.
///
/// Order of calls: `begin`, `poll` repeatedly, `end`, `finish`. If a session records several kinds,
/// all of them are attached before the first one begins.
pub trait Collector {
    /// Starts the recording.
    ///
    /// # Errors
    /// [`RecordError`] if it turns out that the kind cannot be recorded.
    fn begin(&mut self) -> Result<(), RecordError>;

    /// Reads new data. It is called every 20 ms and must not take much longer itself.
    fn poll(&mut self) -> Progress {
        Progress::default()
    }

    /// Whether recording longer would add nothing: a snapshot is complete at once.
    fn is_complete(&self) -> bool {
        false
    }

    /// Whether a followed process is still alive. Called when all of the session's targets have
    /// exited.
    fn any_alive(&mut self) -> bool {
        false
    }

    /// Ends the recording: later events are not part of it.
    fn end(&mut self) {}

    /// Builds the profile.
    ///
    /// # Errors
    /// [`RecordError`], which says why there is no profile.
    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError>;
}

/// The targets and options of a recording.
pub struct Request<'a> {
    /// The target processes.
    pub roots: &'a [Arc<Process>],
    /// What to record, and how.
    pub options: &'a RecordOptions,
    /// The (first) target is a command that has not called exec yet. It does so shortly after
    /// [`Watcher::attached`].
    pub before_exec: bool,
    /// Values that the kinds of the session share.
    pub(crate) shared: SessionState,
    family: OnceCell<Family>,
}

impl<'a> Request<'a> {
    /// A recording of running processes.
    #[must_use]
    pub fn new(roots: &'a [Arc<Process>], options: &'a RecordOptions) -> Self {
        Self {
            roots,
            options,
            before_exec: false,
            shared: SessionState::default(),
            family: OnceCell::new(),
        }
    }

    /// The targets as every profile of the session describes them. Opens their root directories.
    pub(crate) fn targets(&self) -> Targets {
        self.options.targets(self.roots, &self.family().processes)
    }

    /// The targets and, if the options ask for them, the processes that they forked earlier.
    pub(crate) fn family(&self) -> &Family {
        let wanted = self.options.children && self.options.descendants && !self.before_exec;
        self.family.get_or_init(|| Family::of(self.roots, wanted))
    }
}

/// Values that the kinds of a session share, one of each type, so that each is attached only once.
#[derive(Default)]
pub(crate) struct SessionState(RefCell<HashMap<TypeId, Rc<dyn Any>>>);

impl SessionState {
    /// The session's value of type `T`. The first call creates it.
    pub fn get<T: Default + 'static>(&self) -> Rc<T> {
        let mut all = self.0.borrow_mut();
        let value = all.entry(TypeId::of::<T>()).or_insert_with(|| Rc::<T>::default());
        // The downcast cannot fail: each value is stored under its own type.
        Rc::clone(value).downcast().unwrap_or_default()
    }
}

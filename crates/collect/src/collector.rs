//! What a way of collecting is asked, and what it has to do.

use std::any::{Any, TypeId};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aggregate::family::Family;
use assemble::conclude::Targets;
use assemble::debugfiles::TargetFiles;
use process::Process;

use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};

/// Where a recording stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Since its begin.
    pub elapsed: Duration,
    /// Samples so far.
    pub samples: u64,
    /// Records lost so far, as far as is known before the end.
    pub lost: u64,
}

/// Who waits for a recording.
pub trait Watcher {
    /// All threads are attached; the recording begins.
    fn attached(&mut self) {}
    /// Called several times a second.
    fn progress(&mut self, progress: Progress);
    /// Becomes readable when the recording shall end early.
    fn stop(&self) -> Option<BorrowedFd<'_>>;
}

/// The recording of one kind. It is attached when it is made, and detaches when it is dropped:
/// whatever it changed in a target is undone then, at the latest.
///
/// The order of calls: `begin`, `poll` again and again, `end`, `finish`. With several kinds in a
/// session, all are attached before the first begins.
pub trait Collector {
    /// The recording begins.
    ///
    /// # Errors
    /// The kind cannot be recorded after all.
    fn begin(&mut self) -> Result<(), RecordError>;

    /// Reads what has come since. Called every 20 ms, and must not take much longer itself.
    fn poll(&mut self) -> Progress {
        Progress::default()
    }

    /// Whether waiting longer would add nothing: a snapshot is complete at once.
    fn is_complete(&self) -> bool {
        false
    }

    /// Whether it follows a living process other than the session's targets, which have all ended.
    fn someone_lives(&mut self) -> bool {
        false
    }

    /// The recording ends: nothing that happens from here on belongs to it.
    fn end(&mut self) {}

    /// Makes the profile.
    ///
    /// # Errors
    /// There is no profile.
    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError>;
}

/// What is recorded of whom.
pub struct Request<'a> {
    /// The processes.
    pub roots: &'a [Arc<Process>],
    /// How.
    pub options: &'a RecordOptions,
    /// The (first) target is a command that waits for its exec: it is not the program yet, and
    /// becomes it shortly after [`Watcher::attached`].
    pub before_exec: bool,
    /// What its kinds have in common.
    pub(crate) shared: Shared,
    family: OnceCell<Family>,
}

impl<'a> Request<'a> {
    /// A recording of processes that run.
    #[must_use]
    pub fn new(roots: &'a [Arc<Process>], options: &'a RecordOptions) -> Self {
        Self {
            roots,
            options,
            before_exec: false,
            shared: Shared::default(),
            family: OnceCell::new(),
        }
    }

    /// The targets as every profile of the session describes them. Opens their root directories.
    pub(crate) fn targets(&self) -> Targets {
        Targets {
            roots: self.roots.to_vec(),
            files: TargetFiles::of(&self.family().processes),
            children: self.options.children,
            command_line: self.options.command_line.clone(),
        }
    }

    /// The targets, and the processes that they have forked before where those are wanted.
    pub(crate) fn family(&self) -> &Family {
        let wanted = self.options.children && self.options.descendants && !self.before_exec;
        self.family.get_or_init(|| Family::of(self.roots, wanted))
    }
}

/// What the kinds of a session share, so that it is attached once for all of them: one value of
/// each type.
#[derive(Default)]
pub(crate) struct Shared(RefCell<HashMap<TypeId, Rc<dyn Any>>>);

impl Shared {
    /// The session's value of that type, which the first to ask makes.
    pub fn get<T: Default + 'static>(&self) -> Rc<T> {
        let mut all = self.0.borrow_mut();
        let value = all.entry(TypeId::of::<T>()).or_insert_with(|| Rc::<T>::default());
        // Values are kept under their own type.
        Rc::clone(value).downcast().unwrap_or_default()
    }
}

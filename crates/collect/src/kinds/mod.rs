//! The table of profile kinds. `record` and its help, `serve`, `doctor`, the validator and the text
//! forms read it; a new kind is a file here and an entry of `KINDS`.

mod allocs;
mod block;
mod cpu;
mod goroutine;
mod heap;
mod mutex;
pub mod options;
mod threadcreate;
mod wall;

use std::sync::{Arc, PoisonError, RwLock};

use host::rights::Obstacle;
use pprof::KindFacts;
use process::Process;

use self::options::KindOption;
use crate::collector::{Collector, Request};
use crate::doctor::Patient;
use crate::options::RecordOptions;
use crate::outcome::{Dump, RecordError};

/// One kind of profile.
#[derive(Debug)]
pub struct Kind {
    /// Its name on the command line and in file names, its sample types, its text form.
    pub facts: KindFacts,
    /// One line of help.
    pub about: &'static str,
    /// How a server offers it.
    pub endpoint: Endpoint,
    /// Options that other kinds do not have. Several kinds may share one.
    pub options: &'static [KindOption],
    /// Attaches to the targets for it. [`RecordError::NotApplicable`] where the kind does not fit
    /// them.
    pub prepare: fn(&Request<'_>) -> Result<Box<dyn Collector>, RecordError>,
    /// Whether our rights and the machine allow it: how it is recorded, or what stands in the way.
    pub check: fn(&Patient) -> Result<String, Obstacle>,
}

/// Counts what a profile of a process would hold now.
pub type Count = fn(&Arc<Process>) -> Result<u64, RecordError>;

/// Writes all stacks of a process as text.
pub type DumpText = fn(&Arc<Process>, &RecordOptions) -> Result<Dump, RecordError>;

/// How a server offers a kind.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name below `/debug/pprof/`.
    pub name: &'static str,
    /// What it gives.
    pub about: &'static str,
    /// What the parameter `seconds` means.
    pub seconds: Seconds,
    /// Recordings in the same lane change the same things in a process: one at a time.
    pub lane: &'static str,
    /// What profile stores call it.
    pub metric: &'static str,
    /// Counts what a profile would hold now, for the index. Without it, the index shows the
    /// samples of the last profile.
    pub count: Option<Count>,
    /// Makes the text forms (`debug=1`, `debug=2`) where they are more than the profile's.
    pub dump: Option<DumpText>,
    /// The flag that is set where a request names no `seconds`: it reads what is there already.
    pub history: Option<KindOption>,
}

/// What the parameter `seconds` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seconds {
    /// The length of the recording, as of Go's CPU profile: 30 s by default, and bad values are
    /// not an error.
    Record,
    /// The time between two profiles, of which the difference is given.
    Difference,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.facts.name
    }
}

/// Our kinds.
static KINDS: [Kind; 8] = [
    cpu::ROW,
    wall::ROW,
    heap::ROW,
    allocs::ROW,
    block::ROW,
    mutex::ROW,
    goroutine::ROW,
    threadcreate::ROW,
];

/// Kinds of the program that we are part of.
static REGISTERED: RwLock<Vec<&'static Kind>> = RwLock::new(Vec::new());

/// Adds a kind to the table, for all readers from now on.
pub fn register(kind: &'static Kind) {
    // A push leaves nothing half changed.
    REGISTERED.write().unwrap_or_else(PoisonError::into_inner).push(kind);
}

/// All kinds.
#[must_use]
pub fn all() -> Vec<&'static Kind> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    KINDS.iter().chain(registered.iter().copied()).collect()
}

/// The kind of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    all().into_iter().find(|k| k.name() == name)
}

/// The options of all kinds, each once.
#[must_use]
pub fn all_options() -> Vec<&'static KindOption> {
    let mut found: Vec<&KindOption> = Vec::new();
    for option in all().into_iter().flat_map(|k| k.options) {
        if found.iter().all(|o| o.name != option.name) {
            found.push(option);
        }
    }
    found
}

/// The facts of all kinds, for [`pprof::validate::Expect::kinds`].
#[must_use]
pub fn all_facts() -> Vec<KindFacts> {
    all().into_iter().map(|k| k.facts).collect()
}

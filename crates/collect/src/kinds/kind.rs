//! The row of a kind in the table: everything that its readers need to know of it.

use std::sync::Arc;

use host::rights::Obstacle;
use pprof::KindFacts;
use process::Process;

use super::options::KindOption;
use crate::checks::Patient;
use crate::collector::{Collector, Request};
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

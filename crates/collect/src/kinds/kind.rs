//! Defines a row in the table of profile kinds: all that commands and the server need to know about
//! a kind.

use std::sync::Arc;

use host::rights::Obstacle;
use pprof::KindFacts;
use process::Process;

use super::options::KindOption;
use crate::checks::Subject;
use crate::collector::{Collector, Request};
use crate::options::RecordOptions;
use crate::outcome::{Dump, RecordError};

/// One kind of profile.
#[derive(Debug)]
pub struct Kind {
    /// Its name on the command line and in file names, its sample types and its text form.
    pub facts: KindFacts,
    /// One line of help.
    pub about: &'static str,
    /// How a server offers it.
    pub endpoint: Endpoint,
    /// Options that only some kinds have. Several kinds may share one.
    pub options: &'static [KindOption],
    /// Attaches to the targets. Returns [`RecordError::NotApplicable`] if the kind cannot be
    /// recorded for them.
    pub prepare: fn(&Request<'_>) -> Result<Box<dyn Collector>, RecordError>,
    /// Checks whether our rights and the machine allow it. Returns how it is recorded, or what
    /// prevents it.
    pub check: fn(&Subject) -> Result<String, Obstacle>,
}

/// Computes the total that a profile of the process would have now.
pub type Count = fn(&Arc<Process>) -> Result<u64, RecordError>;

/// Dumps all stacks of a process as text.
pub type DumpText = fn(&Arc<Process>, &RecordOptions) -> Result<Dump, RecordError>;

/// How a server offers a kind.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name below `/debug/pprof/`.
    pub name: &'static str,
    /// The description on the server's index page.
    pub about: &'static str,
    /// The meaning of the parameter `seconds`.
    pub seconds: Seconds,
    /// Recordings in the same lane change the same state of a process, so they run one at a time.
    pub lane: &'static str,
    /// The name of the metric in profile stores such as Pyroscope.
    pub metric: &'static str,
    /// Computes the total that a profile would have now, for the index page. Without it, the index
    /// page shows the total of the last profile.
    pub count: Option<Count>,
    /// Makes the text forms (`debug=1`, `debug=2`) if they show more than the profile does.
    pub dump: Option<DumpText>,
    /// The flag that is set if a request has no `seconds`: it reads what the program has recorded.
    pub history: Option<KindOption>,
}

/// The meaning of the parameter `seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seconds {
    /// The length of the recording, as for Go's CPU profile: the default is 30 s, and invalid
    /// values are not an error.
    Record,
    /// The time between two profiles; the response is their difference.
    Difference,
}

impl Kind {
    /// The kind's name, as on the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.facts.name
    }
}

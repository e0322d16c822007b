//! Collects statistics of a recording: how it was made and what is missing.

use std::sync::Arc;
use std::time::Duration;

use aggregate::recorder::SampleStats;
use aggregate::rings::RecordingFacts;

use crate::symbols::SymbolLosses;

/// How a recording was made, and what is missing from it.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// How samples were taken.
    pub backend: String,
    /// Outcomes of the samples.
    pub samples: SampleStats,
    /// Records that were lost because a ring buffer was full.
    pub lost: u64,
    /// Times the kernel throttled a CPU.
    pub throttled: u64,
    /// Records that could not be parsed.
    pub malformed: u64,
    /// Rows or events of mappings that could not be read.
    pub unreadable_maps: u64,
    /// Addresses that have no name in their image.
    pub nameless_frames: u64,
    /// Files with sampled code that could not be read, each with the reason.
    pub unread_images: Vec<String>,
    /// Images whose debug information is damaged.
    pub damaged_images: Vec<Arc<str>>,
    /// Why kernel frames have no names, and how many if only some have none.
    pub kernel_names: Option<String>,
    /// Why sampling ended when the stack window was enlarged.
    pub reattach_failed: Option<String>,
    /// Reads of mapped files that returned zeros because the file was truncated meanwhile.
    pub file_faults: u64,
    /// How long the recording took.
    pub elapsed: Duration,
    /// Whatever else readers of the profile should know, one line each. Shown to the user and
    /// written into the profile's comments.
    pub notes: Vec<String>,
}

impl From<RecordingFacts> for Stats {
    fn from(facts: RecordingFacts) -> Self {
        Self {
            samples: facts.samples,
            lost: facts.lost,
            throttled: facts.throttled,
            malformed: facts.malformed,
            unreadable_maps: facts.unreadable_maps,
            file_faults: facts.file_faults,
            elapsed: facts.elapsed,
            ..Self::default()
        }
    }
}

impl Stats {
    /// The statistics that every recording has.
    #[must_use]
    pub fn new(facts: RecordingFacts, losses: &SymbolLosses) -> Self {
        Self {
            nameless_frames: losses.nameless,
            damaged_images: losses.damaged.clone(),
            unread_images: losses.unread(),
            ..Self::from(facts)
        }
    }
}

//! What a recording tells of itself.

use std::sync::Arc;
use std::time::Duration;

use aggregate::recorder::SampleStats;
use aggregate::rings::RecordingFacts;

use crate::symbols::SymbolLosses;

/// What a recording is made of, and what is missing from it.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// How samples were taken.
    pub backend: String,
    /// What became of the samples.
    pub samples: SampleStats,
    /// Records that the kernel had no room for.
    pub lost: u64,
    /// Times the kernel throttled a CPU.
    pub throttled: u64,
    /// Records that could not be understood.
    pub malformed: u64,
    /// Rows or events of mappings that could not be read.
    pub unreadable_maps: u64,
    /// Addresses that their images have no name for.
    pub nameless_frames: u64,
    /// Files with sampled code that could not be read, and why.
    pub unread_images: Vec<String>,
    /// Images whose debug information is damaged.
    pub damaged_images: Vec<Arc<str>>,
    /// Why kernel frames have no names, and how many of them where some have.
    pub kernel_names: Option<String>,
    /// Why sampling could not go on after the stack window was made larger.
    pub reattach_failed: Option<String>,
    /// Reads of the targets' files that met zeros, because a file was cut short under us.
    pub file_faults: u64,
    /// How long the recording took.
    pub elapsed: Duration,
    /// What else a reader of the profile should know, one line each: it goes into the profile's
    /// comments, and is shown.
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
    /// The statistics that every recording has: what it shares with others, and what could not be
    /// named.
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

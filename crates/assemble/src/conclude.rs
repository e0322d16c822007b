//! The last steps of a recording, the same for all kinds: names, header, profile.

use std::sync::Arc;
use std::time::Instant;

use aggregate::recorder::Recorder;
use image::MappingId;
use pprof::{BuildError, Profile, ProfileBuilder, ValueType};
use process::Process;

use crate::builder::{Assembler, Tables, Valued, main_mapping};
use crate::comments;
use crate::debugfiles::TargetFiles;
use crate::outcome::Stats;
use crate::symbols::{self, Known, Resolved, SymbolLosses};

/// Frames with their names.
pub struct Named {
    /// By frame index.
    pub resolved: Vec<Resolved>,
    /// What could not be named.
    pub losses: SymbolLosses,
    /// The mapping of the (first) target's executable.
    main: Option<MappingId>,
}

/// Looks up the names of all frames that were recorded.
pub fn name(recorder: &mut Recorder, roots: &[Arc<Process>], files: &TargetFiles) -> Named {
    let began = Instant::now();
    recorder.runtimes.finish();
    let main = roots.first().and_then(|root| {
        let tracked = recorder.processes.get(root.pid())?;
        let exe = tracked.identity.as_ref().and_then(|i| i.exe.as_ref()?.to_str());
        main_mapping(&tracked.space, exe)
    });
    if let Some(m) = &main {
        recorder.mappings.entry(m.id).or_insert_with(|| m.clone());
    }
    let frames = recorder.tree.frames();
    let (resolved, losses) = symbols::resolve(
        &mut Known::default(),
        frames,
        &recorder.markers,
        &recorder.mappings,
        Some(&recorder.runtimes),
        files,
    );
    tracing::info!(
        frames = frames.len(),
        images = recorder.mappings.len(),
        nameless = losses.nameless,
        took = ?began.elapsed(),
        "symbolized"
    );
    Named { resolved, losses, main: main.map(|m| m.id) }
}

/// What a kind's profile says of itself.
pub struct Header<'a> {
    /// Types and units of the samples' values.
    pub types: &'a [(&'a str, &'a str)],
    /// Type and unit of the period, and how long it is.
    pub period: ((&'a str, &'a str), u64),
    /// Begin, nanoseconds since the Unix epoch.
    pub time: i64,
}

/// What was recorded of whom.
pub struct About<'a> {
    /// What was recorded.
    pub recorder: &'a Recorder,
    /// The names of its frames.
    pub named: &'a Named,
    /// The targets.
    pub roots: &'a [Arc<Process>],
    /// Whether children are in it.
    pub children: bool,
    /// How the recording was asked for.
    pub command_line: &'a str,
}

/// Makes the profile.
///
/// # Errors
/// It exceeds what its format can hold.
pub fn build(
    about: &About<'_>,
    header: &Header<'_>,
    stats: &Stats,
    samples: &[Valued],
) -> Result<Profile, BuildError> {
    let tables = Tables {
        tree: &about.recorder.tree,
        resolved: &about.named.resolved,
        mappings: &about.recorder.mappings,
        runtimes: &about.recorder.runtimes,
        main: about.named.main,
        label_processes: about.children || about.roots.len() > 1,
    };
    let mut assembler = Assembler::new(tables, builder(about, header, stats))?;
    for sample in samples {
        assembler.add(sample)?;
    }
    Ok(assembler.finish())
}

fn builder(about: &About<'_>, header: &Header<'_>, stats: &Stats) -> ProfileBuilder {
    let types = header.types.iter().map(|(name, unit)| ValueType::new(*name, *unit));
    let mut b = ProfileBuilder::new(types.collect());
    let ((name, unit), period) = header.period;
    b.set_period(ValueType::new(name, unit), i64::try_from(period).unwrap_or(i64::MAX));
    b.set_time_nanos(header.time);
    b.set_duration_nanos(i64::try_from(stats.elapsed.as_nanos()).unwrap_or(i64::MAX));
    for root in about.roots {
        let tracked = about.recorder.processes.get(root.pid());
        let identity = tracked.and_then(|t| t.identity.as_ref()).unwrap_or(root.identity());
        b.comment(&comments::target(root.pid(), identity));
    }
    b.comment(&comments::command(about.command_line));
    for line in comments::recording(stats) {
        b.comment(&line);
    }
    b
}

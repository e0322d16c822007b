//! Turns a finished recording into a profile: names its frames, then adds header, comments and
//! samples. All kinds share these steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregate::recorder::Recorder;
use image::MappingId;
use pprof::kinds::KindFacts;
use pprof::{BuildError, Profile, ProfileBuilder, ValueType};
use process::Process;

use crate::builder::{Assembler, Tables, Valued, main_mapping};
use crate::comments;
use crate::debugfiles::TargetFiles;
use crate::stats::Stats;
use crate::symbols::{FrameContext, Namer, Resolved, SymbolLosses};

/// Frames with their names.
pub struct Named {
    /// The functions of each frame, by frame index.
    pub resolved: Vec<Resolved>,
    /// What could not be named.
    pub losses: SymbolLosses,
    /// The mapping of the first target's executable.
    main: Option<MappingId>,
}

/// The header of a profile.
pub struct Header<'a> {
    /// The kind: types and units of samples and of the period.
    pub kind: &'a KindFacts,
    /// The sampling period, in the unit of the kind's period type.
    pub period: u64,
    /// When the recording began, in nanoseconds since the Unix epoch.
    pub time: i64,
}

/// The targets of a recording and how it was requested: what is the same for every profile of a
/// session. It keeps the targets' root directories open, so that debug files are found after the
/// targets have exited.
pub struct Targets {
    /// The requested processes.
    pub roots: Vec<Arc<Process>>,
    /// Where debug files are searched for.
    pub files: TargetFiles,
    /// Whether children are recorded too.
    pub children: bool,
    /// The command line of the recording.
    pub command_line: String,
}

impl Targets {
    /// Names all frames of a recording.
    pub fn name(&self, recorder: &mut Recorder) -> Named {
        let began = Instant::now();
        recorder.runtimes.finish();
        let main = self.roots.first().and_then(|root| {
            let tracked = recorder.processes.get(root.pid())?;
            let exe = tracked.identity.as_ref().and_then(|i| i.exe.as_ref()?.to_str());
            main_mapping(&tracked.space, exe)
        });
        if let Some(m) = &main {
            recorder.mappings.entry(m.id).or_insert_with(|| m.clone());
        }
        let frames = recorder.tree.frames();
        let context = FrameContext::from(&*recorder);
        let (resolved, losses) = Namer::default().name(frames, context, &self.files);
        tracing::info!(
            frames = frames.len(),
            images = recorder.mappings.len(),
            nameless = losses.nameless,
            took = ?began.elapsed(),
            "symbolized"
        );
        Named { resolved, losses, main: main.map(|m| m.id) }
    }

    /// Builds the profile.
    ///
    /// # Errors
    /// It exceeds what its format can hold.
    pub fn build(
        &self,
        header: &Header<'_>,
        (recorder, named): (&Recorder, &Named),
        stats: &Stats,
        samples: &[Valued],
    ) -> Result<Profile, BuildError> {
        let tables = Tables {
            tree: &recorder.tree,
            resolved: &named.resolved,
            mappings: &recorder.mappings,
            runtimes: &recorder.runtimes,
            main: named.main,
            label_processes: self.children || self.roots.len() > 1,
        };
        let mut builder = header.builder(stats.elapsed);
        self.comment(&mut builder, recorder, stats);
        Assembler::new(tables, builder)?.assemble(samples)
    }

    fn comment(&self, builder: &mut ProfileBuilder, recorder: &Recorder, stats: &Stats) {
        for root in &self.roots {
            let tracked = recorder.processes.get(root.pid());
            let identity = tracked.and_then(|t| t.identity.as_ref()).unwrap_or(root.identity());
            builder.comment(&comments::target(root.pid(), identity));
        }
        builder.comment(&comments::command(&self.command_line));
        for line in comments::recording(stats) {
            builder.comment(&line);
        }
    }
}

impl Header<'_> {
    /// A builder with this header, for a profile of `elapsed`.
    #[must_use]
    pub fn builder(&self, elapsed: Duration) -> ProfileBuilder {
        let value_type = |(name, unit): &(&str, &str)| ValueType::new(*name, *unit);
        let mut b = ProfileBuilder::new(self.kind.sample_types.iter().map(value_type).collect());
        let period = i64::try_from(self.period).unwrap_or(i64::MAX);
        b.set_period(value_type(&self.kind.period_type), period);
        b.set_time_nanos(self.time);
        b.set_duration_nanos(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX));
        b
    }
}

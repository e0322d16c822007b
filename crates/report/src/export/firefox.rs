//! Exports to the Firefox Profiler, in its processed profile format.

use std::io::Write;
use std::time::Duration;

use fxprof_processed_profile::{
    CategoryColor, CategoryPairHandle, CpuDelta, Frame, FrameFlags, FrameHandle, FrameInfo,
    ProcessHandle, Profile, ReferenceTimestamp, SamplingInterval, StackHandle, ThreadHandle,
    Timestamp, WeightType,
};

use super::tracks::Track;
use crate::graph::{Graph, NodeId, location_index};
use crate::measure;
use crate::report::Report;
use crate::{ReportError, go};

/// The largest weight of a track that the format can hold; larger ones are scaled down.
const LARGEST: i64 = i32::MAX as i64;

impl Report<'_> {
    /// Writes a file for <https://profiler.firefox.com>, with a track for each thread.
    ///
    /// Profiles have no timestamps: each stack appears once, as long as its weight, and the order has
    /// no meaning.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_firefox(&self, out: &mut dyn Write) -> Result<(), ReportError> {
        let graph = Graph::of_locations(&self.work, self.detail());
        let tracks = self.tracks(&graph);
        let scale = Scale::of(self.unit(), &tracks);
        let mut title = self.title();
        if let Some(note) = &scale.note {
            title = format!("{title} ({note})");
        }
        let recorded = self.work.profile;
        let begin = Duration::from_nanos(u64::try_from(recorded.time_nanos).unwrap_or(0));
        let begin = ReferenceTimestamp::from_duration_since_unix_epoch(begin);
        let interval = SamplingInterval::from_nanos(self.interval());
        let mut file = File {
            profile: Profile::new(&title, begin, interval),
            categories: Vec::new(),
            graph: &graph,
            scale,
        };
        file.profile.set_os_name("Linux");
        // All names are known, so the viewer must not ask a symbol server.
        file.profile.set_symbolicated(true);
        file.categories(&self.kernel_entries(&graph));
        file.tracks(&tracks, &self.main_name());
        serde_json::to_writer(&mut *out, &file.profile).map_err(std::io::Error::from)?;
        Ok(out.write_all(b"\n")?)
    }

    /// The sampling interval in nanoseconds; 1 ms if samples are not taken by time.
    fn interval(&self) -> u64 {
        let profile = self.work.profile;
        let ns = measure::nanoseconds(&profile.period_type.unit);
        let period = u64::try_from(profile.period).ok().filter(|p| *p > 0);
        ns.zip(period)
            .map_or(1_000_000, |(ns, period)| go::truncated_from_0(ns).saturating_mul(period))
    }

    /// Whether each entry is kernel code.
    fn kernel_entries(&self, graph: &Graph) -> Vec<bool> {
        let profile = self.work.profile;
        let mut is_kernel = vec![false; graph.nodes.len()];
        for (at, location) in profile.locations.iter().enumerate() {
            let mapping = location.mapping.and_then(|m| profile.mappings.get(m.index()));
            if mapping.is_some_and(|m| crate::graph::is_kernel(&m.file)) {
                let entries = graph.at(location_index(at));
                entries.iter().for_each(|id| is_kernel[*id as usize] = true);
            }
        }
        is_kernel
    }
}

/// Converts weights to the 31-bit integers that the library takes.
struct Scale {
    kind: WeightType,
    /// The value of 1 in the file.
    divisor: f64,
    /// The value of one millisecond on the time axis.
    millisecond: f64,
    /// Explains the unit, if the viewer's own name for it does not.
    note: Option<String>,
}

impl Scale {
    fn of(unit: &str, tracks: &[Track]) -> Self {
        let total: u64 = tracks.iter().fold(0, |sum, t| sum.saturating_add(t.weight));
        let heaviest = tracks.iter().map(|t| t.weight).max().unwrap_or(0);
        let mut scale = match (measure::nanoseconds(unit), unit) {
            (Some(ns), _) => Self::of_time(ns, total as f64 * ns),
            (None, "bytes") => Self { kind: WeightType::Bytes, ..Self::counts(1.0, None) },
            (None, _) => Self::counts(1.0, None),
        };
        while heaviest as f64 / scale.divisor > LARGEST as f64 {
            let divisor = scale.divisor * 1000.0;
            let note = format!("1 sample = {divisor} {unit}");
            scale = Self { millisecond: scale.millisecond, ..Self::counts(divisor, Some(note)) };
        }
        scale
    }

    const fn counts(divisor: f64, note: Option<String>) -> Self {
        // One sample is one millisecond wide, so that it is visible.
        Self { kind: WeightType::Samples, divisor, millisecond: divisor, note }
    }

    /// Milliseconds if these are fine enough.
    fn of_time(ns: f64, total: f64) -> Self {
        let (name, factor) = match total {
            t if t >= 1e9 => ("ms", 1e6),
            t if t >= 1e6 => ("us", 1e3),
            _ => ("ns", 1.0),
        };
        let millisecond = 1e6 / ns;
        if name == "ms" {
            let (kind, divisor) = (WeightType::TracingMs, millisecond);
            return Self { kind, divisor, millisecond, note: None };
        }
        let note = Some(format!("1 sample = 1 {name}"));
        Self { millisecond, ..Self::counts(factor / ns, note) }
    }
}

struct File<'g> {
    profile: Profile,
    /// The category of each entry.
    categories: Vec<CategoryPairHandle>,
    graph: &'g Graph,
    scale: Scale,
}

impl File<'_> {
    fn categories(&mut self, is_kernel: &[bool]) {
        let user = self.profile.add_category("User", CategoryColor::Yellow).into();
        let kernel = self.profile.add_category("Kernel", CategoryColor::Orange).into();
        self.categories = is_kernel.iter().map(|k| if *k { kernel } else { user }).collect();
    }

    fn tracks(&mut self, tracks: &[Track], main: &str) {
        let start = Timestamp::from_nanos_since_reference(0);
        let mut processes: Vec<(u32, &str, ProcessHandle)> = Vec::new();
        for (nth, track) in tracks.iter().enumerate() {
            let of = &track.thread;
            let known =
                processes.iter().find(|(pid, name, _)| *pid == of.pid && *name == of.process);
            let process = known.map(|(.., process)| *process).unwrap_or_else(|| {
                let name = if of.process.is_empty() { main } else { &of.process };
                let process = self.profile.add_process(&printable::line(name), of.pid, start);
                processes.push((of.pid, &of.process, process));
                process
            });
            let is_main = of.tid == of.pid;
            let thread = self.profile.add_thread(process, of.tid, start, is_main);
            let name = if of.name.is_empty() { main } else { &of.name };
            self.profile.set_thread_name(thread, &printable::line(name));
            self.profile.set_thread_samples_weight_type(thread, self.scale.kind.clone());
            if nth == 0 {
                self.profile.add_initial_selected_thread(thread);
            }
            self.samples(thread, track);
        }
    }

    fn samples(&mut self, thread: ThreadHandle, track: &Track) {
        let mut frames = vec![None; self.graph.nodes.len()];
        // The previous stack with its handles: the common prefix need not be looked up again.
        let mut above: Vec<(NodeId, StackHandle)> = Vec::new();
        // Round running sums instead of weights, so that rounding errors don't add up.
        let (mut measured, mut written) = (0.0, 0.0);
        let mut time = 0_u64;
        for (stack, weight) in &track.stacks {
            let common = above.iter().zip(stack).take_while(|((id, _), other)| id == *other);
            above.truncate(common.count());
            for id in &stack[above.len()..] {
                let parent = above.last().map(|(_, stack)| *stack);
                let frame = self.frame(thread, *id, &mut frames);
                above.push((*id, self.profile.intern_stack(thread, parent, frame)));
            }
            measured += *weight as f64 / self.scale.divisor;
            let rounded = (measured - written).round();
            written += rounded;
            let length = weight.unsigned_abs() as f64 / self.scale.millisecond * 1e6;
            let length = go::truncated_from_0(length);
            let at = Timestamp::from_nanos_since_reference(time);
            let stack = above.last().map(|(_, stack)| *stack);
            // In range, because the scale fits the heaviest track.
            self.profile.add_sample(
                thread,
                at,
                stack,
                CpuDelta::from_nanos(length),
                i32::try_from(go::truncated(rounded)).unwrap_or(i32::MAX),
            );
            time = time.saturating_add(length);
        }
        self.profile.set_thread_end_time(thread, Timestamp::from_nanos_since_reference(time));
    }

    fn frame(
        &mut self,
        thread: ThreadHandle,
        id: NodeId,
        known: &mut [Option<FrameHandle>],
    ) -> FrameHandle {
        *known[id as usize].get_or_insert_with(|| {
            let name = self.graph.node(id).info.printable();
            let info = FrameInfo {
                frame: Frame::Label(self.profile.intern_string(&name)),
                category_pair: self.categories[id as usize],
                flags: FrameFlags::empty(),
            };
            self.profile.intern_frame(thread, info)
        })
    }
}

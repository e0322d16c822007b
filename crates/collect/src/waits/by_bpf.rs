//! Listening to the samples of waiting that BPF programs take ([`events::WaitSampler`]).

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aggregate::clock::monotonic_now;
use aggregate::ids::{NodeIndex, ROOT, ThreadId, ThreadIndex};
use aggregate::recorder::Recorder;
use aggregate::rings::{KnownThreads, RingReader};
use aggregate::runtimes::WhichChain;
use assemble::Stats;
use events::{
    Event, EventKind, RingSet, WaitChains, WaitCounters, WaitError, WaitId, WaitOptions,
    WaitOutputs, WaitSample, WaitSampler, WaitWants, Waiting,
};

use crate::collector::{Progress, Request};
use crate::kinds::options::BLOCK_RATE;
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// How often the size of the stack window is reviewed.
const REVIEW_INTERVAL_NS: u64 = 200_000_000;
/// The first window of copied stack; it grows where too many stacks do not fit.
const FIRST_STACK_BYTES: u32 = 16 << 10;
/// A third of a second of 2000 samples, all on one CPU.
const RING_BYTES: usize = 8 << 20;
/// The marker of a wait whose stack could not be taken in time.
pub(super) const NO_STACK: &str = "[stack not taken]";

/// A sample of waiting with the stack that belongs to it.
pub(super) struct Taken<'a> {
    pub thread: ThreadIndex,
    /// The user stack.
    pub stack: NodeIndex,
    pub sample: WaitSample<'a>,
}

/// A wait that has not ended.
pub(super) struct Unfinished {
    pub thread: ThreadIndex,
    /// User stack, and the kernel's above it.
    pub user: NodeIndex,
    pub stack: NodeIndex,
    pub waiting: Waiting,
}

/// A running recording of waiting.
pub(super) struct Waits {
    pub reader: RingReader,
    sampler: WaitSampler,
    rings: RingSet,
    stack_bytes: u32,
    reviewed: u64,
    /// What went wrong on the way.
    problems: Vec<String>,
    unfinished: Vec<Unfinished>,
    /// Why no chains of interpreters are followed.
    no_chains: Option<String>,
}

impl Waits {
    /// Attaches to the targets.
    pub fn attach(request: &Request<'_>) -> Result<Self, RecordError> {
        let options = request.options;
        let cpus = events::online_cpus().map_err(|source| {
            crate::perf::attach::AttachError::System { what: "list the cpus", source }
        })?;
        let wanted = WaitOptions {
            children: options.children,
            stack_bytes: FIRST_STACK_BYTES,
            ring_bytes: RING_BYTES,
            finest_rate: options.own.number(&BLOCK_RATE),
        };
        let family = request.family();
        let (mut reader, (outputs, rings)) =
            RingReader::attach(family, options.children, 1, KnownThreads::All, |_| {
                WaitOutputs::open(&cpus, &wanted)
            })?;
        let (mut sampler, no_chains) = attach_programs(outputs, request, &mut reader.recorder)?;
        let pidfds: Vec<_> = request.family().processes.iter().map(|p| p.as_fd()).collect();
        sampler.follow(&pidfds)?;
        Ok(Self {
            reader,
            sampler,
            rings,
            stack_bytes: FIRST_STACK_BYTES,
            reviewed: 0,
            problems: Vec::new(),
            unfinished: Vec::new(),
            no_chains,
        })
    }

    /// The recording of what is wanted begins.
    pub fn begin(&mut self, wants: WaitWants) -> Result<(), RecordError> {
        let begin = self.reader.begin(&self.rings, None);
        self.reviewed = begin;
        let threads = self.reader.recorder.processes.thread_count() as u64;
        self.sampler.begin(begin, threads, wants)?;
        Ok(())
    }

    /// Reads what has come.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&mut Recorder, &Taken<'_>)) -> Progress {
        let now = monotonic_now();
        self.reader.read_settled(&mut self.rings, &mut |recorder, e| take(recorder, e, sink));
        if self.no_chains.is_none() {
            self.reader.recorder.look_for_runtimes();
        }
        let counters = match self.sampler.review(now) {
            Ok(counters) => counters,
            Err(e) => {
                self.problem(&e);
                self.sampler.counters()
            }
        };
        if now.saturating_sub(self.reviewed) >= REVIEW_INTERVAL_NS {
            self.reviewed = now;
            self.review_window();
        }
        Progress {
            elapsed: Duration::ZERO,
            samples: self.reader.recorder.stats.kept,
            lost: counters.failed,
        }
    }

    fn read_all(&mut self, sink: &mut dyn FnMut(&mut Recorder, &Taken<'_>)) {
        self.reader.read_all(&mut self.rings, &mut |recorder, e| take(recorder, e, sink));
    }

    fn review_window(&mut self) {
        let wanted = self.stack_bytes.saturating_mul(4).min(u32::from(u16::MAX) & !7);
        if wanted <= self.stack_bytes || !self.reader.recorder.window_is_too_small() {
            return;
        }
        tracing::info!(from = self.stack_bytes, to = wanted, "stack window grows");
        match self.sampler.grow_stack(&mut self.rings, wanted) {
            Ok(()) => self.stack_bytes = wanted,
            Err(e) => {
                self.problem(&e);
                // Not to be tried again.
                self.stack_bytes = u32::MAX;
            }
        }
    }

    fn problem(&mut self, e: &WaitError) {
        let text = e.to_string();
        if !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }

    /// Whether a followed process still runs.
    pub fn someone_lives(&mut self, sink: &mut dyn FnMut(&mut Recorder, &Taken<'_>)) -> bool {
        let rings = &mut self.rings;
        self.reader.someone_lives(rings, &mut |recorder, e| take(recorder, e, sink))
    }

    /// The recording ends: what still waits is listed, with stacks.
    ///
    /// Stacks are read from memory while the threads wait. They are right where a wait is found
    /// both before and after: so most are read while the recording still runs, only those of
    /// waits that began at its very end afterwards.
    pub fn end(&mut self, sink: &mut dyn FnMut(&mut Recorder, &Taken<'_>)) {
        self.read_all(sink);
        self.reader.recorder.look_for_runtimes();
        let before = self.list();
        let mut stacks = self.stacks_of(&before, &BTreeMap::new());
        // Every wait that goes on has lasted until here, however long it takes to list them.
        let end = monotonic_now();
        if let Err(e) = self.sampler.end() {
            self.problem(&e);
        }
        self.reader.end_at(end);
        let mut at_end = self.list();
        at_end.retain(|w| w.id.out < end);
        at_end.iter_mut().for_each(|w| w.now = end);
        stacks.retain(|id, _| at_end.iter().any(|w| w.id == *id));
        let late = self.stacks_of(&at_end, &stacks);
        if !late.is_empty() {
            let still = self.list();
            let still: Vec<WaitId> = still.iter().map(|w| w.id).collect();
            stacks.extend(late.into_iter().filter(|(id, _)| still.contains(id)));
        }
        for waiting in at_end {
            let user = stacks.get(&waiting.id).copied();
            let user = user.unwrap_or_else(|| self.reader.recorder.marker(ROOT, NO_STACK.into()));
            let Some(thread) = self.reader.recorder.processes.sampled(waiting.pid, waiting.tid)
            else {
                continue;
            };
            let stack = self.reader.recorder.kernel_stack(user, waiting.kernel.iter().copied());
            self.unfinished.push(Unfinished { thread, user, stack, waiting });
        }
    }

    fn list(&mut self) -> Vec<Waiting> {
        match self.sampler.waiting() {
            Ok(waiting) => waiting,
            Err(e) => {
                self.problem(&e);
                Vec::new()
            }
        }
    }

    /// The user stacks of waits that have none yet.
    fn stacks_of(
        &mut self,
        waiting: &[Waiting],
        known: &BTreeMap<WaitId, NodeIndex>,
    ) -> BTreeMap<WaitId, NodeIndex> {
        let recorder = &mut self.reader.recorder;
        let unknown = waiting.iter().filter(|w| !known.contains_key(&w.id));
        let mut stack = |w: &Waiting| recorder.waiting_stack(w.pid, &w.registers, w.thread_pointer);
        unknown.filter_map(|w| Some((w.id, stack(w)?))).collect()
    }

    /// The waits that have not ended, after [`Waits::end`].
    pub fn unfinished(&self) -> &[Unfinished] {
        &self.unfinished
    }

    /// What is left in the rings; then nothing more comes.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&mut Recorder, &Taken<'_>)) {
        self.read_all(sink);
    }

    /// What was recorded by what means, and what is missing. `rate` names the rate in force.
    pub fn stats(&self) -> Stats {
        let counters = self.sampler.counters();
        let losses = self.rings.losses();
        // The programs see each failure, while the last losses of a ring are never reported.
        let lost = counters.failed.max(self.reader.lost(losses.lost));
        let hook = if self.sampler.hooks_every_syscall() { "sys_exit" } else { "rseq" };
        let mut notes = self.problems.clone();
        notes.extend(shortages(&counters));
        notes.extend(self.reader.recorder.runtime_notes());
        notes.extend_from_slice(self.reader.recorder.processes.family_notes());
        notes.extend(
            self.no_chains.as_ref().and_then(|why| without_functions(&self.reader.recorder, why)),
        );
        Stats {
            backend: format!(
                "bpf, scheduler tracepoints, stacks at {hook}, {} KiB of stack",
                self.stack_bytes.min(u32::from(u16::MAX)).div_ceil(1024)
            ),
            notes,
            ..Stats::from(self.reader.facts(losses, lost))
        }
    }

    /// Mean nanoseconds between two samples of waiting, and of being waited for.
    pub fn rates(&self) -> (u64, u64) {
        self.sampler.rates()
    }
}

/// Samples waits, and follows the chains of interpreters' frames if there are interpreters: of a
/// command that has not begun nobody knows yet. All other targets are spared that cost. Returns why
/// none are followed, too.
fn attach_programs(
    outputs: WaitOutputs,
    request: &Request<'_>,
    recorder: &mut Recorder,
) -> Result<(WaitSampler, Option<String>), RecordError> {
    recorder.look_for_runtimes();
    let wanted = request.before_exec || recorder.runtimes.have_chains();
    let (sampler, chains) = WaitSampler::attach(outputs, wanted)?;
    let why = match chains {
        WaitChains::Followed(chains) => {
            recorder.runtimes.follow_chains_by(*chains);
            None
        }
        WaitChains::Refused(e) => Some(e.to_string()),
        WaitChains::NotWanted => Some("there was none yet when the recording was attached".into()),
    };
    Ok((sampler, why))
}

/// What is missing where an interpreter's chains are not followed while threads wait, and why.
pub(super) fn without_functions(recorder: &Recorder, why: &str) -> Option<String> {
    recorder.runtimes.have_chains().then(|| {
        format!(
            "stacks of waits that ended are those of the {} interpreter, without the functions that \
             it executes: {why}",
            recorder.runtimes.with_chains()
        )
    })
}

fn shortages(counters: &WaitCounters) -> Vec<String> {
    let mut notes = Vec::new();
    if counters.untracked > 0 {
        notes.push(format!(
            "{} waits are not in the sums of their locks: too many locks at a time",
            counters.untracked
        ));
    }
    if counters.unfollowed > 0 {
        notes.push(format!("{} threads were not followed: no memory", counters.unfollowed));
    }
    notes
}

/// Passes on the sample of waiting in an event; all other events but samples are the recorder's.
fn take(recorder: &mut Recorder, e: &Event<'_>, sink: &mut dyn FnMut(&mut Recorder, &Taken<'_>)) {
    match sample_of(recorder, e) {
        Some(taken) => sink(recorder, &taken),
        None if matches!(e.kind, EventKind::Sample(_)) => {}
        None => recorder.event(e),
    }
}

/// The sample of waiting in an event of a followed process, with its stack.
fn sample_of<'a>(recorder: &mut Recorder, e: &Event<'a>) -> Option<Taken<'a>> {
    let EventKind::Sample(s) = e.kind else { return None };
    if e.time < recorder.start {
        return None;
    }
    let sample = WaitSample::parse(s.raw)?;
    let thread = recorder.processes.sampled(e.pid, e.tid)?;
    let moved = matches!(&sample, WaitSample::Waited(w) if w.stack_changed);
    let stack = if moved {
        recorder.marker(ROOT, NO_STACK.into())
    } else {
        let chain = sample.chain().map_or(WhichChain::None, WhichChain::At);
        recorder.user_stack(ThreadId { pid: e.pid, tid: e.tid }, e.time, chain, &s).0
    };
    recorder.stats.contexts_cut = recorder.tree.is_full();
    Some(Taken { thread, stack, sample })
}

/// How densely was sampled, for the profile.
pub(super) fn rate_note(ns: u64, options: &RecordOptions) -> String {
    let (rate, finest) =
        (Duration::from_nanos(ns), Duration::from_nanos(options.own.number(&BLOCK_RATE)));
    format!(
        "waits are sampled by Go's rule, and values scaled up accordingly; the mean time between \
         two samples adapts to what comes: {rate:?} at the end, never less than {finest:?}"
    )
}

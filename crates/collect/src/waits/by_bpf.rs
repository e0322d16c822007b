//! Reads the wait samples that BPF programs take ([`events::WaitSampler`]) and unwinds their
//! stacks.

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
use crate::go::BLOCK_RATE;
use crate::options::RecordOptions;
use crate::outcome::RecordError;
use crate::plural::counted;

/// How often the size of the stack window is checked.
const REVIEW_INTERVAL_NS: u64 = 200_000_000;
/// Bytes of stack that are copied at first. The window grows if too many stacks do not fit.
const FIRST_STACK_BYTES: u32 = 16 << 10;
/// Holds a third of a second at 2000 samples per second, even if one CPU takes them all.
const RING_BYTES: usize = 8 << 20;
/// The marker of a wait whose stack could not be taken in time.
pub(super) const NO_STACK: &str = "[stack not taken]";

/// A wait sample with its user stack.
pub(super) struct StackSample<'a> {
    pub thread: ThreadIndex,
    /// The user stack.
    pub stack: NodeIndex,
    pub sample: WaitSample<'a>,
}

/// A wait that has not ended.
pub(super) struct Unfinished {
    pub thread: ThreadIndex,
    /// The user stack.
    pub user: NodeIndex,
    /// The user stack with the kernel stack on top.
    pub stack: NodeIndex,
    pub waiting: Waiting,
}

/// A running recording of waits.
pub(super) struct Waits {
    pub reader: RingReader,
    sampler: WaitSampler,
    rings: RingSet,
    stack_bytes: u32,
    reviewed: u64,
    /// Errors during the recording, each once.
    problems: Vec<String>,
    unfinished: Vec<Unfinished>,
    /// Why the frame chains of interpreters are not followed; `None` if they are.
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

    /// Starts recording what `wants` selects.
    pub fn begin(&mut self, wants: WaitWants) -> Result<(), RecordError> {
        let begin = self.reader.begin(&self.rings, None);
        self.reviewed = begin;
        let threads = self.reader.recorder.processes.thread_count() as u64;
        self.sampler.begin(begin, threads, wants)?;
        Ok(())
    }

    /// Reads new samples.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&mut Recorder, &StackSample<'_>)) -> Progress {
        let now = monotonic_now();
        self.reader.read_settled(&mut self.rings, &mut |recorder, e| pass_on(recorder, e, sink));
        if self.no_chains.is_none() {
            self.reader.recorder.look_for_runtimes();
        }
        let counters = match self.sampler.review(now) {
            Ok(counters) => counters,
            Err(e) => {
                self.note_problem(&e);
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

    fn read_all(&mut self, sink: &mut dyn FnMut(&mut Recorder, &StackSample<'_>)) {
        self.reader.read_all(&mut self.rings, &mut |recorder, e| pass_on(recorder, e, sink));
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
                self.note_problem(&e);
                // This keeps it from being tried again.
                self.stack_bytes = u32::MAX;
            }
        }
    }

    fn note_problem(&mut self, e: &WaitError) {
        let text = e.to_string();
        if !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }

    /// Whether a followed process is still running.
    pub fn any_alive(&mut self, sink: &mut dyn FnMut(&mut Recorder, &StackSample<'_>)) -> bool {
        let rings = &mut self.rings;
        self.reader.any_alive(rings, &mut |recorder, e| pass_on(recorder, e, sink))
    }

    /// Ends the recording and lists the waits that have not ended, with their stacks.
    ///
    /// The stacks are read from memory while the threads wait. A stack is correct if the same wait
    /// is found before and after reading it. Most stacks are therefore read while the recording is
    /// still running; only those of waits that began at its very end are read afterwards.
    pub fn end(&mut self, sink: &mut dyn FnMut(&mut Recorder, &StackSample<'_>)) {
        self.read_all(sink);
        self.reader.recorder.look_for_runtimes();
        let before = self.list();
        let mut stacks = self.stacks_of(&before, &BTreeMap::new());
        // Every wait in progress counts up to this moment, however long listing the waits takes.
        let end = monotonic_now();
        if let Err(e) = self.sampler.end() {
            self.note_problem(&e);
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
                self.note_problem(&e);
                Vec::new()
            }
        }
    }

    /// Reads the user stacks of the waits that are not in `known`.
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

    /// The waits that had not ended at the end of the recording; empty before [`Waits::end`].
    pub fn unfinished(&self) -> &[Unfinished] {
        &self.unfinished
    }

    /// Reads what is left in the rings, after the recording has ended.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&mut Recorder, &StackSample<'_>)) {
        self.read_all(sink);
    }

    /// How the waits were recorded, and what is missing.
    pub fn stats(&self) -> Stats {
        let counters = self.sampler.counters();
        let losses = self.rings.losses();
        // The programs count every failure, but a ring never reports its last losses.
        let lost = counters.failed.max(self.reader.lost(losses.lost));
        let hook = if self.sampler.hooks_every_syscall() { "sys_exit" } else { "rseq" };
        let mut notes = self.problems.clone();
        notes.extend(overflow_notes(&counters));
        notes.extend(self.reader.recorder.runtime_notes());
        notes.extend_from_slice(self.reader.recorder.processes.family_notes());
        notes.extend(
            self.no_chains.as_ref().and_then(|why| missing_functions(&self.reader.recorder, why)),
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

    /// The mean nanoseconds of waiting between two samples, for waits and for wakeups.
    pub fn rates(&self) -> (u64, u64) {
        self.sampler.rates()
    }
}

/// Attaches the programs that sample waits. They also follow the frame chains of interpreters if a
/// target has an interpreter, or is a command that has not started yet and may turn out to have
/// one. Other targets do not pay that cost. Also returns why no chains are followed, if they are
/// not.
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
        WaitChains::NotRequested => {
            Some("no interpreter was running when the recording attached".into())
        }
    };
    Ok((sampler, why))
}

/// A note that interpreter functions are missing from stacks of waits, and why.
pub(super) fn missing_functions(recorder: &Recorder, why: &str) -> Option<String> {
    recorder.runtimes.have_chains().then(|| {
        format!(
            "stacks of ended waits show the {} interpreter without the functions that it executes: \
             {why}",
            recorder.runtimes.with_chains()
        )
    })
}

fn overflow_notes(counters: &WaitCounters) -> Vec<String> {
    let mut notes = Vec::new();
    if counters.untracked > 0 {
        notes.push(format!(
            "the lock totals are missing {}: too many locks are in use",
            counted(counters.untracked, "wait")
        ));
    }
    if counters.unfollowed > 0 {
        notes.push(format!(
            "could not follow {}: the kernel was out of memory",
            counted(counters.unfollowed, "thread")
        ));
    }
    notes
}

/// Passes the wait sample of an event to `sink`, and events that are not samples to the recorder.
fn pass_on(
    recorder: &mut Recorder,
    e: &Event<'_>,
    sink: &mut dyn FnMut(&mut Recorder, &StackSample<'_>),
) {
    match sample_of(recorder, e) {
        Some(sampled) => sink(recorder, &sampled),
        None if matches!(e.kind, EventKind::Sample(_)) => {}
        None => recorder.event(e),
    }
}

/// The wait sample in an event of a followed process, with its stack.
fn sample_of<'a>(recorder: &mut Recorder, e: &Event<'a>) -> Option<StackSample<'a>> {
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
    Some(StackSample { thread, stack, sample })
}

/// A note about the sampling rate (`ns`: nanoseconds of waiting between two samples).
pub(super) fn rate_note(ns: u64, options: &RecordOptions) -> String {
    let (rate, finest) =
        (Duration::from_nanos(ns), Duration::from_nanos(options.own.number(&BLOCK_RATE)));
    format!(
        "waits are sampled by Go's rule and values are scaled up; the mean waiting time between \
         two samples adapts to their number: {rate:?} at the end, never less than {finest:?}"
    )
}

//! Records one kind of profile of one or more Go programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregate::clock::unix_now;
use assemble::Stats;
use goruntime::LayoutSource;
use pprof::KindFacts;
use process::Process;

use super::profile::GoProfile;
use super::program::{Program, Programs};
use crate::collector::{Collector, Progress, Request};
use crate::options::RecordOptions;
use crate::outcome::{Ended, Outcome, RecordError};

/// The parts of a recording that differ between the kinds.
pub(crate) trait GoKind: Sized + 'static {
    /// The name and sample types of the profile.
    const FACTS: KindFacts;

    /// Starts the recording of a program. Changes to the program's memory are made here, and undone
    /// when the value is dropped.
    fn attach(program: &Program, options: &RecordOptions) -> Result<Self, RecordError>;

    /// Whether a single reading is enough, so that recording longer would add nothing.
    fn is_snapshot(&self) -> bool;

    /// Called every 20 ms.
    fn poll(&mut self, _program: &Program) {}

    /// Reads the program's state. It replaces the state that was read before.
    fn read(&mut self, program: &Program) -> Result<(), RecordError>;

    /// Whether there is a state to build a profile from.
    fn has_read(&self) -> bool;

    /// Ends the recording: undoes the changes to the program.
    fn end(&mut self, _program: &Program) {}

    /// The period of the profile.
    fn period(&self) -> i64 {
        1
    }

    /// Adds the samples to the profile.
    fn add_to(&self, program: &Program, profile: &mut GoProfile) -> Result<(), RecordError>;

    /// Adds counts of kept, lost and broken samples, and notes for the reader.
    fn account(&self, program: &Program, stats: &mut Stats);
}

/// How often the state is read during a recording, so that there is a profile even if the program
/// exits. Less often if reading would otherwise take more than one part in `SHARE` of the time.
const READ_INTERVAL: Duration = Duration::from_millis(500);
const SHARE: u32 = 100;
/// How often the state of a command that we started is read. It may exit soon.
const COMMAND_INTERVAL: Duration = Duration::from_millis(100);

/// One target process and the state of its recording.
struct Target<K> {
    process: Arc<Process>,
    /// It is a command that we started. A snapshot just after its start is not what the user wants,
    /// so snapshots are also taken at the end.
    started: bool,
    state: State<K>,
}

impl<K: GoKind> Target<K> {
    /// Whether its state is read repeatedly until the end.
    fn is_read_repeatedly(&self, kind: &K) -> bool {
        self.started || !kind.is_snapshot()
    }
}

enum State<K> {
    /// It does not run a Go program yet.
    Expected,
    Running {
        program: Box<Program>,
        kind: K,
        next: Instant,
    },
    Failed(RecordError),
}

/// Records one kind of profile of all target programs.
pub(crate) struct GoCollector<K> {
    targets: Vec<Target<K>>,
    /// Programs that were found but are not attached to yet.
    found: Vec<Program>,
    options: RecordOptions,
    began: Instant,
    time: i64,
    elapsed: Duration,
}

/// Prepares the recording if the targets are Go programs; `None` if none of them is.
pub(crate) fn prepare<K: GoKind>(
    request: &Request<'_>,
) -> Result<Option<Box<dyn Collector>>, RecordError> {
    let (targets, found) = match Programs::find(request)? {
        None => return Ok(None),
        Some(Programs::Expected(process)) => {
            (vec![Target { process, started: true, state: State::Expected }], Vec::new())
        }
        Some(Programs::Running(programs)) => (Vec::new(), programs),
    };
    Ok(Some(Box::new(GoCollector::<K> {
        targets,
        found,
        options: request.options.clone(),
        began: Instant::now(),
        time: 0,
        elapsed: Duration::ZERO,
    })))
}

impl<K: GoKind> GoCollector<K> {
    fn attach(&self, program: Program) -> Result<State<K>, RecordError> {
        let mut kind = K::attach(&program, &self.options)?;
        if kind.is_snapshot() {
            kind.read(&program)?;
        }
        let next = Instant::now() + COMMAND_INTERVAL;
        Ok(State::Running { program: Box::new(program), kind, next })
    }

    /// Attaches to a command if it runs its program by now.
    fn attach_if_started(&self, process: &Arc<Process>) -> State<K> {
        // Before the runtime has started, its state cannot be found or is implausible.
        match Program::open(process) {
            Ok(Some(program)) if has_started(&program) => {
                self.attach(program).unwrap_or_else(State::Failed)
            }
            _ => State::Expected,
        }
    }
}

/// Whether the runtime has created its main goroutine. Until then it still initializes itself and
/// some of its variables.
fn has_started(program: &Program) -> bool {
    let all = program.runtime.goroutine_addresses(&program.memory);
    all.is_ok_and(|all| all.len() > 1)
}

impl<K: GoKind> Collector for GoCollector<K> {
    fn begin(&mut self) -> Result<(), RecordError> {
        (self.began, self.time) = (Instant::now(), unix_now());
        for program in std::mem::take(&mut self.found) {
            let process = program.process.clone();
            let state = self.attach(program)?;
            self.targets.push(Target { process, started: false, state });
        }
        Ok(())
    }

    fn poll(&mut self) -> Progress {
        let mut targets = std::mem::take(&mut self.targets);
        for target in &mut targets {
            let started = target.started;
            match &mut target.state {
                State::Expected => target.state = self.attach_if_started(&target.process),
                State::Running { program, kind, next } => {
                    kind.poll(program);
                    let now = Instant::now();
                    if (started || !kind.is_snapshot()) && now >= *next {
                        // The program may be exiting. If reading fails, the last state remains.
                        let _ = kind.read(program);
                        let cost = now.elapsed();
                        let interval = if started { COMMAND_INTERVAL } else { READ_INTERVAL };
                        *next = Instant::now() + interval.max(cost * SHARE);
                    }
                }
                State::Failed(_) => {}
            }
        }
        self.targets = targets;
        Progress::default()
    }

    fn is_complete(&self) -> bool {
        self.targets.iter().all(|t| match &t.state {
            State::Expected => false,
            State::Running { kind, .. } => !t.is_read_repeatedly(kind),
            State::Failed(_) => true,
        })
    }

    fn end(&mut self) {
        for target in &mut self.targets {
            let started = target.started;
            if let State::Running { program, kind, .. } = &mut target.state {
                if started || !kind.is_snapshot() {
                    let read = kind.read(program);
                    if let (Err(e), false) = (read, kind.has_read()) {
                        target.state = State::Failed(e);
                        continue;
                    }
                }
                kind.end(program);
            }
        }
        self.elapsed = self.began.elapsed();
    }

    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        let mut running = Vec::new();
        for target in self.targets {
            match target.state {
                State::Running { program, kind, .. } => running.push((*program, kind)),
                State::Failed(e) => return Err(e),
                State::Expected => {
                    return Err(RecordError::NotApplicable(format!(
                        "process {}: its Go runtime had not started when the recording ended",
                        target.process.pid()
                    )));
                }
            }
        }
        let stats = Stats { elapsed: self.elapsed, ..Stats::default() };
        let mut outcome = assemble(running, &self.options, stats, ended)?;
        outcome.profile.time_nanos = self.time;
        Ok(outcome)
    }
}

/// Builds the profile from what was read.
pub(crate) fn assemble<K: GoKind>(
    running: Vec<(Program, K)>,
    options: &RecordOptions,
    mut stats: Stats,
    ended: Ended,
) -> Result<Outcome, RecordError> {
    let mut period = 1;
    for (program, kind) in &running {
        stats.backend = format!("the Go runtime's own records ({})", program.runtime.version());
        match program.runtime.layout_source() {
            LayoutSource::Measured => {}
            LayoutSource::Dwarf => stats.notes.push(format!(
                "{} is unknown to this version of exoprof: the layout of its runtime was read from \
                 DWARF, and inlined calls may be missing",
                program.runtime.version()
            )),
            LayoutSource::Guessed => stats.notes.push(format!(
                "{} is unknown to this version of exoprof: it was read with the layout of the \
                 nearest version that gives consistent goroutines, and inlined calls may be \
                 missing",
                program.runtime.version()
            )),
        }
        period = kind.period();
        kind.account(program, &mut stats);
    }
    stats.file_faults = host::sigbus::faults();
    let mut profile = GoProfile::new(&K::FACTS, period, running.len() > 1);
    for (program, kind) in &running {
        profile.add_program(program)?;
        kind.add_to(program, &mut profile)?;
    }
    let builder = profile.builder();
    builder.set_time_nanos(unix_now());
    // As in Go, a snapshot has no duration.
    if running.iter().any(|(_, kind)| !kind.is_snapshot()) {
        let nanos = i64::try_from(stats.elapsed.as_nanos()).unwrap_or(i64::MAX);
        builder.set_duration_nanos(nanos);
    }
    for (program, _) in &running {
        let identity = program.process.read_identity();
        let identity = identity.as_ref().unwrap_or(program.process.identity());
        builder.comment(&assemble::comments::target(program.process.pid(), identity));
    }
    builder.comment(&assemble::comments::command(&options.command_line));
    for line in assemble::comments::recording(&stats) {
        builder.comment(&line);
    }
    Ok(Outcome { profile: profile.finish(), stats, ended })
}

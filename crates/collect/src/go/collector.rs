//! The recording of one kind of profile of Go programs.

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

/// What differs between the kinds.
pub(crate) trait GoKind: Sized + 'static {
    /// The types of the profile.
    const FACTS: KindFacts;

    /// The recording of a program begins; whatever has to be changed in it is changed now, and
    /// undone when this is dropped.
    fn attach(program: &Program, options: &RecordOptions) -> Result<Self, RecordError>;

    /// Whether one reading is all: waiting longer would add nothing.
    fn is_snapshot(&self) -> bool;

    /// Called every 20 ms.
    fn poll(&mut self, _program: &Program) {}

    /// Reads the state; the newest is kept.
    fn read(&mut self, program: &Program) -> Result<(), RecordError>;

    /// Whether there is anything read that a profile can be made of.
    fn has_read(&self) -> bool;

    /// The recording is over: undoes what was changed.
    fn end(&mut self, _program: &Program) {}

    /// The period of the profile.
    fn period(&self) -> i64 {
        1
    }

    /// Adds the samples.
    fn add_to(&self, program: &Program, profile: &mut GoProfile) -> Result<(), RecordError>;

    /// Adds what became of the samples, and what a reader should know.
    fn account(&self, program: &Program, stats: &mut Stats);
}

/// How often the state is read during a recording, so that there is something to show for a
/// program that exits: this often, or so seldom that it takes a hundredth of the time.
const READ_INTERVAL: Duration = Duration::from_millis(500);
const SHARE: u32 = 100;
/// A command may be over soon.
const COMMAND_INTERVAL: Duration = Duration::from_millis(100);

/// One program and what is recorded of it.
struct Target<K> {
    process: Arc<Process>,
    /// It is a command of ours: what it does just after its begin is not what is asked for, so
    /// that also a snapshot is taken at the end.
    started: bool,
    state: State<K>,
}

impl<K: GoKind> Target<K> {
    /// Whether it is read again and again, until the end.
    fn is_read_on(&self, kind: &K) -> bool {
        self.started || !kind.is_snapshot()
    }
}

enum State<K> {
    /// It does not execute a Go program yet.
    Expected,
    Running {
        program: Box<Program>,
        kind: K,
        next: Instant,
    },
    Failed(RecordError),
}

/// The recording of one kind.
pub(crate) struct GoCollector<K> {
    targets: Vec<Target<K>>,
    /// Found, and not yet attached to.
    found: Vec<Program>,
    options: RecordOptions,
    began: Instant,
    time: i64,
    elapsed: Duration,
}

/// The kind's half for Go programs; `None` where no target is one.
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

    /// Looks whether the command is executing its program by now.
    fn look_for(&self, process: &Arc<Process>) -> State<K> {
        // Until its runtime has begun there is nothing, or nothing plausible, to be found.
        match Program::open(process) {
            Ok(Some(program)) if has_begun(&program) => {
                self.attach(program).unwrap_or_else(State::Failed)
            }
            _ => State::Expected,
        }
    }
}

/// The runtime has made its main goroutine: before, it sets itself up, and some variables with it.
fn has_begun(program: &Program) -> bool {
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
                State::Expected => target.state = self.look_for(&target.process),
                State::Running { program, kind, next } => {
                    kind.poll(program);
                    let now = Instant::now();
                    if (started || !kind.is_snapshot()) && now >= *next {
                        // It may be exiting: what was read last stays.
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
            State::Running { kind, .. } => !t.is_read_on(kind),
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
                        "process {}: its Go runtime did not begin in this time",
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

/// Makes the profile of what was read.
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
                "{} is not known to this exoprof: its layout was read from its DWARF, and inlined \
                 calls may be missing",
                program.runtime.version()
            )),
            LayoutSource::Guessed => stats.notes.push(format!(
                "{} is not known to this exoprof: it was read by the layout of the nearest version, \
                 by which its goroutines make sense; inlined calls may be missing",
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
    // As in Go, a profile of one moment has no length.
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

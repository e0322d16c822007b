//! Dumps all threads of a native program, for the `goroutine` profile and `exoprof dump`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aggregate::clock::{monotonic_now, unix_now};
use aggregate::ids::{ROOT, ThreadId};
use aggregate::processes::NamedThread;
use aggregate::recorder::{Copied, Recorder};
use aggregate::rings::RecordingFacts;
use assemble::Stats;
use assemble::builder::Valued;
use assemble::conclude::{Header, Named, Targets};
use pprof::kinds::GOROUTINE;
use printable::Printable;
use process::Process;

use super::dumped::DumpedThread;
use super::locks_held::{self, HeldLock};
use super::snapshot::{CopyMethod, Stops, ThreadCopy};
use super::{text, waiting};
use crate::collector::{Collector, Request};
use crate::options::RecordOptions;
use crate::outcome::{Dump, Ended, Outcome, RecordError};

/// The unwound threads of the target processes.
pub(super) struct Threads {
    pub recorder: Recorder,
    pub dumped: Vec<DumpedThread>,
    targets: Targets,
    time: i64,
    method: CopyMethod,
    stops: Stops,
    deadlocks: Vec<String>,
}

impl Threads {
    /// Prepares to dump the processes. There are no threads yet.
    pub fn of(roots: &[Arc<Process>], options: &RecordOptions) -> Result<Self, RecordError> {
        let method = CopyMethod::new(options.no_stop)?;
        let mut recorder = Recorder::new(false, 1);
        for root in roots {
            recorder.processes.add_root(root.clone());
        }
        Ok(Self {
            recorder,
            dumped: Vec::new(),
            targets: options.targets(roots, roots),
            time: unix_now(),
            method,
            stops: Stops::default(),
            deadlocks: Vec::new(),
        })
    }

    /// Copies and unwinds all threads of all processes, one process at a time.
    pub fn take(&mut self) -> Result<(), RecordError> {
        self.time = unix_now();
        for root in self.targets.roots.clone() {
            self.recorder.processes.refresh_maps(&root, monotonic_now());
            self.recorder.look_for_runtimes();
            let snapshot = self.method.take(&root, &mut self.recorder.runtimes)?;
            self.stops.add(&root, &snapshot);
            self.unwind(&root, &snapshot.threads);
        }
        Ok(())
    }

    fn unwind(&mut self, process: &Process, threads: &[ThreadCopy]) {
        let numbers = process.threads_by_own_number().unwrap_or_default();
        let locks = locks_held::find(threads, |own| numbers.get(&own).copied());
        let name_of = |tid: i32| threads.iter().find(|t| t.tid == tid).map_or("", |t| &t.name);
        for cycle in locks_held::cycles(&locks) {
            self.deadlocks.push(deadlock(&cycle, &locks, name_of));
        }
        let process_name: Arc<str> = process.identity().comm.as_str().into();
        let container: Option<Arc<str>> = process.identity().container.as_deref().map(Into::into);
        for t in threads {
            let stack = match &t.registers {
                Ok(registers) => {
                    let standing = t.standing.as_ref();
                    let copy = Copied { registers, bytes: &t.stack, standing };
                    self.recorder.copied_stack(process.pid(), &copy).0
                }
                Err(why) => self.recorder.marker(ROOT, format!("[no stack: {why}]")),
            };
            self.recorder.stats.kept += 1;
            let id = ThreadId { pid: process.pid(), tid: t.tid };
            let name = t.name.as_str().into();
            self.dumped.push(DumpedThread {
                thread: NamedThread {
                    id,
                    name,
                    process: process_name.clone(),
                    container: container.clone(),
                },
                state: waiting::state(t.wait.as_ref()),
                stack,
                waits_for: locks.get(&t.tid).copied(),
            });
        }
    }

    fn notes(&self) -> Vec<String> {
        [self.stops.notes(), self.deadlocks.clone()].concat()
    }

    fn stats(&self, named: &Named) -> Stats {
        Stats {
            backend: self.method.name().into(),
            notes: [self.notes(), self.recorder.runtime_notes()].concat(),
            ..Stats::new(RecordingFacts::of(&self.recorder, Duration::ZERO), &named.losses)
        }
    }

    /// Symbolizes the frames and builds the profile.
    pub fn conclude(&mut self) -> Result<(pprof::Profile, Stats, Named), RecordError> {
        let named = self.targets.name(&mut self.recorder);
        let stats = self.stats(&named);
        let header = Header { kind: &GOROUTINE, period: 1, time: self.time };
        let valued = |d: &DumpedThread| Valued {
            thread: d.thread.clone(),
            stack: d.stack,
            labels: vec![("state".into(), d.state.as_str().into())],
            values: vec![1],
        };
        let samples: Vec<Valued> = self.dumped.iter().map(valued).collect();
        let profile = self.targets.build(&header, (&self.recorder, &named), &stats, &samples)?;
        Ok((profile, stats, named))
    }
}

/// Describes a deadlock in one line.
fn deadlock<'a>(
    cycle: &[i32],
    locks: &BTreeMap<i32, HeldLock>,
    name_of: impl Fn(i32) -> &'a str,
) -> String {
    let who = |tid: i32| format!("thread {tid} ({})", Printable(name_of(tid)));
    let mut line = String::from("deadlock: ");
    for (i, tid) in cycle.iter().enumerate() {
        let Some(held) = locks.get(tid) else { continue };
        let begin = if i == 0 { who(*tid) } else { ", which".into() };
        let (address, owner) = (held.address, who(held.owner));
        line += &format!("{begin} waits for the mutex {address:#x} held by {owner}");
    }
    line
}

/// Dumps the threads of a process.
pub(crate) fn dump(process: &Arc<Process>, options: &RecordOptions) -> Result<Dump, RecordError> {
    let mut threads = Threads::of(std::slice::from_ref(process), options)?;
    threads.take()?;
    let (profile, stats, named) = threads.conclude()?;
    let printer = text::Printer::new(&threads.recorder, &named);
    Ok(Dump {
        text: printer.one_by_one(&threads.dumped, &threads.notes()),
        grouped: printer.grouped(&threads.dumped, GOROUTINE.name),
        profile,
        stats,
    })
}

/// Prepares a profile of where the targets' threads are.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    Ok(Box::new(Snapshots {
        threads: Threads::of(request.roots, request.options)?,
        at_end: request.before_exec,
        elapsed: Duration::ZERO,
    }))
}

struct Snapshots {
    threads: Threads,
    /// The target has not called exec yet, so its threads are copied when the recording ends.
    at_end: bool,
    /// How long copying and unwinding took.
    elapsed: Duration,
}

impl Snapshots {
    fn take(&mut self) -> Result<(), RecordError> {
        let begin = monotonic_now();
        let taken = self.threads.take();
        self.elapsed = Duration::from_nanos(monotonic_now() - begin);
        taken
    }
}

impl Collector for Snapshots {
    fn begin(&mut self) -> Result<(), RecordError> {
        if self.at_end { Ok(()) } else { self.take() }
    }

    fn is_complete(&self) -> bool {
        !self.at_end
    }

    fn finish(mut self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        if self.at_end {
            self.take().map_err(|e| match e {
                RecordError::Seize(process::SeizeError::Gone { pid }) => {
                    RecordError::NotApplicable(format!(
                        "process {pid} exited before the end of the recording, which is when the \
                         threads of a command are copied; fix: record for a shorter --duration"
                    ))
                }
                other => other,
            })?;
        }
        let (profile, mut stats, _) = self.threads.conclude()?;
        stats.elapsed = self.elapsed;
        Ok(Outcome { profile, stats, ended })
    }
}

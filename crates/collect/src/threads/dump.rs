//! All threads of a native program now: the `goroutine` profile and `exoprof dump`.

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
use assemble::debugfiles::TargetFiles;
use pprof::kinds::GOROUTINE;
use process::Process;

use super::locks_held::{self, Held};
use super::snapshot::{Means, Stops, ThreadCopy};
use super::standing::Standing;
use super::{text, waiting};
use crate::collector::{Collector, Request};
use crate::options::RecordOptions;
use crate::outcome::{Dump, Ended, Outcome, RecordError};

/// The threads of some processes, unwound.
pub(super) struct Threads {
    pub recorder: Recorder,
    pub standing: Vec<Standing>,
    targets: Targets,
    time: i64,
    means: Means,
    stops: Stops,
    deadlocks: Vec<String>,
}

impl Threads {
    /// Nobody yet.
    pub fn of(roots: &[Arc<Process>], options: &RecordOptions) -> Result<Self, RecordError> {
        let means = Means::new(options.no_stop)?;
        let mut recorder = Recorder::new(false, 1);
        for root in roots {
            recorder.processes.add_root(root.clone());
        }
        Ok(Self {
            recorder,
            standing: Vec::new(),
            targets: Targets {
                roots: roots.to_vec(),
                files: TargetFiles::of(roots),
                children: options.children,
                command_line: options.command_line.clone(),
            },
            time: unix_now(),
            means,
            stops: Stops::default(),
            deadlocks: Vec::new(),
        })
    }

    /// Copies all threads of all processes, one process after the other, and unwinds them.
    pub fn take(&mut self) -> Result<(), RecordError> {
        self.time = unix_now();
        for root in self.targets.roots.clone() {
            self.recorder.processes.refresh_maps(&root, monotonic_now());
            self.recorder.look_for_runtimes();
            let snapshot = self.means.take(&root, &mut self.recorder.runtimes)?;
            self.stops.add(&root, &snapshot);
            self.unwind(&root, &snapshot.threads);
        }
        Ok(())
    }

    fn unwind(&mut self, process: &Process, threads: &[ThreadCopy]) {
        let numbers = process.threads_by_own_number().unwrap_or_default();
        let locks = locks_held::find(threads, |own| numbers.get(&own).copied());
        let name_of = |tid: i32| threads.iter().find(|t| t.tid == tid).map_or("", |t| &t.name);
        for circle in locks_held::circles(&locks) {
            self.deadlocks.push(deadlock(&circle, &locks, name_of));
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
            self.standing.push(Standing {
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
            backend: self.means.name().into(),
            notes: [self.notes(), self.recorder.runtime_notes()].concat(),
            ..Stats::new(RecordingFacts::of(&self.recorder, Duration::ZERO), &named.losses)
        }
    }

    /// Names the frames and makes the profile.
    pub fn conclude(&mut self) -> Result<(pprof::Profile, Stats, Named), RecordError> {
        let named = self.targets.name(&mut self.recorder);
        let stats = self.stats(&named);
        let header = Header { kind: &GOROUTINE, period: 1, time: self.time };
        let valued = |s: &Standing| Valued {
            thread: s.thread.clone(),
            stack: s.stack,
            labels: vec![("state".into(), s.state.as_str().into())],
            values: vec![1],
        };
        let samples: Vec<Valued> = self.standing.iter().map(valued).collect();
        let profile = self.targets.build(&header, (&self.recorder, &named), &stats, &samples)?;
        Ok((profile, stats, named))
    }
}

fn deadlock<'a>(
    circle: &[i32],
    locks: &BTreeMap<i32, Held>,
    name_of: impl Fn(i32) -> &'a str,
) -> String {
    let who = |tid: i32| format!("thread {tid} ({})", waiting::printable(name_of(tid)));
    let mut line = String::from("deadlock: ");
    for (i, tid) in circle.iter().enumerate() {
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
        text: printer.one_by_one(&threads.standing, &threads.notes()),
        grouped: printer.grouped(&threads.standing, GOROUTINE.name),
        profile,
        stats,
    })
}

/// Attaches to the targets, for a profile of where their threads are.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    Ok(Box::new(Snapshots {
        threads: Threads::of(request.roots, request.options)?,
        later: request.before_exec,
        elapsed: Duration::ZERO,
    }))
}

struct Snapshots {
    threads: Threads,
    /// The target is not the program yet: it is looked at when the recording ends.
    later: bool,
    /// How long it took to look at them.
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
        if self.later { Ok(()) } else { self.take() }
    }

    fn is_complete(&self) -> bool {
        !self.later
    }

    fn finish(mut self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        if self.later {
            self.take().map_err(|e| match e {
                RecordError::Seize(process::SeizeError::Gone { pid }) => {
                    RecordError::NotApplicable(format!(
                        "process {pid} ended before the recording did, and threads of a command are \
                         looked at when that ends: make it shorter (--duration)"
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

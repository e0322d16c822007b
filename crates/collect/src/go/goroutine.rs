//! Records the `goroutine` profile of Go programs: where each goroutine is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use assemble::Stats;
use goruntime::{
    Goroutine, GoroutineList, Stack, StackAbsence, StackEnd, Status, ThreadContext, ThreadRef,
};
use image::Avma;
use pprof::{KindFacts, Label};
use process::{SeizeError, Threads, Tracer};

use super::collector::GoKind;
use super::profile::GoProfile;
use super::program::Program;
use crate::options::RecordOptions;
use crate::outcome::RecordError;

/// The goroutines of a program.
#[derive(Default)]
pub(crate) struct Goroutines {
    pub list: Option<GoroutineList>,
    /// Stopping threads is forbidden.
    no_stop: bool,
    stopped: Stopped,
}

/// The threads that were stopped because they were running goroutines.
#[derive(Default)]
struct Stopped {
    threads: u64,
    /// The total time that they were stopped for.
    time: Duration,
    /// Why no further thread could be stopped.
    refused: Option<SeizeError>,
}

/// How often we try to read running goroutines. A goroutine may have moved to another thread by the
/// time that its thread has stopped.
const RUNNING_ROUNDS: usize = 4;
/// The maximum total time that threads are stopped for.
const MAX_STOPPED: Duration = Duration::from_millis(8);
/// How long to keep stopping threads. On a machine with few free CPUs, a thread needs a CPU before
/// it can stop.
const MAX_WAITED: Duration = Duration::from_secs(2);

/// How often goroutines that changed while they were read are read again.
const ROUNDS: usize = 16;

impl Goroutines {
    /// Reads all goroutines: first without stopping any thread, then the running ones, if their
    /// threads may be stopped.
    pub fn of(program: &Program, arguments: bool, no_stop: bool) -> Result<Self, RecordError> {
        let runtime = &program.runtime;
        let mut reader = runtime.goroutine_reader(&program.memory, arguments);
        let mut list = reader.list().map_err(|e| program.error(e))?;
        for _ in 0..ROUNDS {
            let again = std::mem::take(&mut list.unsettled);
            for g in again {
                match reader.read(g) {
                    Ok(Some(goroutine)) => list.goroutines.push(goroutine),
                    Ok(None) => list.dead += 1,
                    Err(goruntime::ReadError::Unsettled(_)) => list.unsettled.push(g),
                    Err(_) => list.unreadable += 1,
                }
            }
            if list.unsettled.is_empty() {
                break;
            }
        }
        let stopped = match no_stop {
            true => Stopped::default(),
            false => read_running(program, arguments, &mut list),
        };
        Ok(Self { list: Some(list), no_stop, stopped })
    }

    /// The goroutines that Go shows, which excludes the runtime's own.
    fn shown(&self) -> impl Iterator<Item = &Goroutine> {
        self.list.iter().flat_map(|l| &l.goroutines).filter(|g| !g.system)
    }

    /// Notes for the reader: which threads were stopped, and what is incomplete.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let note = |notes: &mut Vec<String>, n: usize, one: &str, many: &str| match n {
            0 => {}
            1 => notes.push(format!("1 goroutine {one}")),
            n => notes.push(format!("{n} goroutines {many}")),
        };
        if let Some(list) = &self.list {
            let changed = "changed during every attempt to read";
            let (one, many) = (format!("{changed} it"), format!("{changed} them"));
            note(&mut notes, list.unsettled.len(), &one, &many);
            note(&mut notes, list.unreadable, "could not be read", "could not be read");
        }
        if let Some(why) = &self.stopped.refused {
            notes.push(format!("running goroutines have no stack: {why}"));
        }
        if self.stopped.threads > 0 {
            let threads = match self.stopped.threads {
                1 => "1 thread that was running a goroutine was".into(),
                n => format!("{n} threads that were running goroutines were"),
            };
            let ms = self.stopped.time.as_secs_f64() * 1e3;
            notes.push(format!("{threads} stopped, {ms:.1} ms in total"));
        }
        if self.no_stop {
            notes.push("no thread was stopped".into());
            let running = self.shown().filter(|g| must_stop(g).is_some()).count();
            let (one, many) = (
                "was running and has no complete stack",
                "were running and have no complete stacks",
            );
            note(&mut notes, running, one, many);
        }
        let leaked = self.shown().filter(|g| g.status == Status::Leaked).count();
        let (one, many) =
            ("is leaked: nothing can ever wake it", "are leaked: nothing can ever wake them");
        note(&mut notes, leaked, one, many);
        let cut = self.shown().filter(|g| g.labels_incomplete).count();
        let (one, many) =
            ("has truncated or unreadable labels", "have truncated or unreadable labels");
        note(&mut notes, cut, one, many);
        notes
    }
}

/// Reads the running goroutines. Stops their threads one at a time, each while one stack is
/// unwound.
fn read_running(program: &Program, arguments: bool, list: &mut GoroutineList) -> Stopped {
    let mut stopped = Stopped::default();
    let began = Instant::now();
    for _ in 0..RUNNING_ROUNDS {
        let running: Vec<(usize, ThreadRef)> = list
            .goroutines
            .iter()
            .enumerate()
            .filter(|(_, g)| !g.system)
            .filter_map(|(i, g)| Some((i, must_stop(g)?)))
            .collect();
        if running.is_empty() || stopped.refused.is_some() || stopped.time > MAX_STOPPED {
            break;
        }
        let Ok(numbers) = program.process.threads_by_own_number() else { break };
        let goroutines = &mut list.goroutines;
        let traced = Tracer::run(|tracer| {
            let mut reader = program.runtime.goroutine_reader(&program.memory, arguments);
            for (i, thread) in running {
                let number = i32::try_from(thread.tid).ok().and_then(|n| numbers.get(&n));
                let Some(tid) = number.copied() else { continue };
                if stopped.time > MAX_STOPPED || began.elapsed() > MAX_WAITED {
                    break;
                }
                let seized = match tracer.seize(&program.process, Threads::Only(&[tid])) {
                    Ok(seized) => seized,
                    Err(e) => {
                        stopped.refused = Some(e);
                        break;
                    }
                };
                // The thread stopped about now. Until then it was running or waiting for a CPU.
                let stopped_at = Instant::now();
                let g = &mut goroutines[i];
                if let Ok(registers) = seized.registers(tid) {
                    // Only arm64 has a link register, x30.
                    let link = cfg!(target_arch = "aarch64").then(|| {
                        let x30 = registers.by_dwarf_number().find(|(n, _)| *n == 30);
                        Avma(x30.map_or(0, |(_, value)| value))
                    });
                    let context = ThreadContext { pc: registers.pc(), sp: registers.sp(), link };
                    if let Ok(Some(read)) = reader.running(g.address, thread.tid, context) {
                        *g = read;
                    }
                }
                stopped.threads += 1;
                seized.release();
                stopped.time += stopped_at.elapsed();
            }
        });
        if traced.is_err() {
            break;
        }
    }
    stopped
}

/// The thread that must be stopped to read the goroutine's stack, if the goroutine is running. Also
/// if it was last read at a moment whose stack even Go could not unwind: in a signal handler or
/// while switching stacks.
fn must_stop(g: &Goroutine) -> Option<ThreadRef> {
    match &g.stack {
        Err(StackAbsence::Running(thread)) => *thread,
        Err(StackAbsence::NoContext) => g.thread,
        Ok(stack) if g.status == Status::Running && stack.end != StackEnd::Complete => g.thread,
        _ => None,
    }
}

/// Why a stack is incomplete, as the summary shows it; `None` if it is complete.
fn breakage(stack: &Result<Stack, StackAbsence>) -> Option<&'static str> {
    match stack {
        Ok(stack) => match stack.end {
            StackEnd::Complete => None,
            StackEnd::NotGo(_) => Some("return address is not in Go code"),
            StackEnd::WritesSp => Some("function switches stacks"),
            StackEnd::NoDepth => Some("function without recorded stack depth"),
            StackEnd::OffStack => Some("stack pointer left the stack"),
            StackEnd::Unreadable => Some("stack not readable"),
            StackEnd::TooDeep => Some("too many frames"),
        },
        Err(StackAbsence::Running(_)) => Some("running, and its thread was not stopped"),
        Err(StackAbsence::NoContext) => Some("in a signal handler or switching stacks"),
        Err(StackAbsence::Implausible) => Some("saved stack pointer is not on the stack"),
        Err(StackAbsence::Unreadable) => Some("stack not readable"),
    }
}

impl GoKind for Goroutines {
    const FACTS: KindFacts = pprof::kinds::GOROUTINE;

    fn attach(_: &Program, options: &RecordOptions) -> Result<Self, RecordError> {
        Ok(Self { no_stop: options.no_stop, ..Self::default() })
    }

    fn is_snapshot(&self) -> bool {
        true
    }

    fn read(&mut self, program: &Program) -> Result<(), RecordError> {
        *self = Self::of(program, false, self.no_stop)?;
        Ok(())
    }

    fn has_read(&self) -> bool {
        self.list.is_some()
    }

    fn add_to(&self, program: &Program, profile: &mut GoProfile) -> Result<(), RecordError> {
        // Most goroutines share their stack with many others. Group them, to symbolize each stack
        // only once.
        type Key<'a> = (Vec<(Avma, bool)>, &'a [(String, String)], Option<&'static str>);
        let mut groups: HashMap<Key<'_>, (usize, i64, &Goroutine)> = HashMap::new();
        for (order, g) in self.shown().enumerate() {
            let frames = g.stack.iter().flat_map(|s| &s.frames);
            let stack: Vec<_> = frames.map(|f| (f.pc, f.after_call)).collect();
            let key = (stack, &g.labels[..], breakage(&g.stack));
            groups.entry(key).or_insert((order, 0, g)).1 += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable_by_key(|(_, (order, ..))| *order);
        for ((_, labels, broken), (_, count, g)) in groups {
            let frames = g.stack.as_ref().map(|s| program.runtime.logical_frames(s));
            let labels = labels
                .iter()
                .filter(|(key, _)| !key.is_empty() && !key.starts_with("pprof::"))
                .map(|(key, value)| Label::text(key.as_str(), value.as_str()))
                .collect();
            let reason =
                broken.map_or_else(|| "[no stack]".into(), |why| format!("[no stack: {why}]"));
            profile.add_or(program, &frames.unwrap_or_default(), &[count], labels, &reason)?;
        }
        Ok(())
    }

    fn account(&self, _: &Program, stats: &mut Stats) {
        let samples = &mut stats.samples;
        for g in self.shown() {
            samples.kept += 1;
            if let Some(why) = breakage(&g.stack) {
                *samples.broken.entry(why.into()).or_default() += 1;
            }
        }
        if let Some(list) = &self.list {
            stats.lost += (list.unsettled.len() + list.unreadable) as u64;
        }
        stats.notes.extend(self.notes());
    }
}

//! Records the `threadcreate` profile of native programs: the stacks that created threads during
//! the recording, and the start functions of threads that existed before.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use aggregate::ids::{NodeIndex, Place, ROOT, ThreadId};
use aggregate::processes::NamedThread;
use aggregate::recorder::Copied;
use aggregate::rings::{KnownThreads, RingReader};
use assemble::Stats;
use assemble::builder::Valued;
use assemble::conclude::{Header, Targets};
use events::{CreationError, CreationSampler, RingSet};
use host::Rights;
use image::MappingId;
use pprof::kinds::THREADCREATE;
use process::Process;

use super::attach::AttachError;
use crate::collector::{Collector, Progress, Request};
use crate::outcome::{Ended, Outcome, RecordError};
use crate::threads::snapshot::{CopyMethod, Stops};

/// Bytes of stack copied with each sample. One fixed size is enough: programs create few threads,
/// and deep stacks are rare.
const STACK_BYTES: u32 = 32 << 10;
/// The size of a ring buffer: two seconds of a program that creates 100 threads per second on one
/// CPU.
const RING_BYTES: usize = 8 << 20;
/// The number of frames between the root and a thread's start function in a statically linked
/// program: `clone` and `start_thread`.
const STATIC_START: usize = 2;

/// Looks up the tracepoint of thread creations and remembers it. Where tracefs is not mounted, this
/// requires CAP_SYS_ADMIN, so a server calls it before it drops privileges. If it fails, a recording
/// that needs the tracepoint returns the reason.
pub fn look_up_tracepoint() {
    if let Err(error) = events::try_creations() {
        tracing::debug!(%error, "no tracepoint of thread creations");
    }
}

/// Attaches to the targets for a threadcreate profile.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let targets = request.targets();
    let followed = request.family().processes.clone();
    let method = CopyMethod::new(request.options.no_stop)?;
    let cpus = events::online_cpus()
        .map_err(|source| super::attach::AttachError::System { what: "list the CPUs", source })?;
    let (family, children) = (request.family(), request.options.children);
    let (reader, (sampler, rings)) =
        RingReader::attach(family, children, 1, KnownThreads::All, |_| {
            CreationSampler::open(&cpus, STACK_BYTES, RING_BYTES).map_err(explain)
        })?;
    Ok(Box::new(Creations {
        targets,
        followed,
        before_exec: request.before_exec,
        reader,
        sampler,
        rings,
        existing: Vec::new(),
        method,
        stops: Stops::default(),
    }))
}

struct Creations {
    targets: Targets,
    /// The targets, and the processes that they forked before the recording.
    followed: Vec<Arc<Process>>,
    before_exec: bool,
    reader: RingReader,
    sampler: CreationSampler,
    rings: RingSet,
    /// Threads that existed before the recording, with their stacks.
    existing: Vec<(NamedThread, NodeIndex)>,
    /// How the stacks of existing threads are copied.
    method: CopyMethod,
    stops: Stops,
}

/// Finds out why the kernel refused to open the event, and the fix.
fn explain(e: CreationError) -> RecordError {
    match e {
        CreationError::Event { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            let rights = Rights::read().ok();
            let filtered = rights.as_ref().is_some_and(Rights::filtered);
            let obstacle = rights.and_then(|r| r.tracepoints().err());
            let blocked = AttachError::Blocked { source, filtered };
            obstacle.map_or(blocked, AttachError::NotPermitted).into()
        }
        e => e.into(),
    }
}

impl Creations {
    fn read_all(&mut self) {
        self.reader.read_all(&mut self.rings, &mut |recorder, e| recorder.event(e));
    }

    /// Copies the existing threads, except the main thread, which was not created as a thread.
    fn take_existing(&mut self, process: &Process) -> Result<(), RecordError> {
        let snapshot = self.method.take(process, &mut self.reader.recorder.runtimes)?;
        self.stops.add(process, &snapshot);
        let comm: Arc<str> = process.identity().comm.as_str().into();
        let container: Option<Arc<str>> = process.identity().container.as_deref().map(Into::into);
        for t in snapshot.threads.iter().filter(|t| t.tid != process.pid()) {
            let stack = match &t.registers {
                Ok(registers) => {
                    let copy = Copied { registers, bytes: &t.stack, standing: None };
                    let (whole, _) = self.reader.recorder.copied_stack(process.pid(), &copy);
                    self.start_function(whole)
                }
                Err(why) => self.reader.recorder.marker(ROOT, format!("[no stack: {why}]")),
            };
            let id = ThreadId { pid: process.pid(), tid: t.tid };
            let name = t.name.as_str().into();
            let (process, container) = (comm.clone(), container.clone());
            self.existing.push((NamedThread { id, name, process, container }, stack));
        }
        Ok(())
    }

    /// The outermost part of a stack, up to the thread's start function. This is the first function
    /// that is not in the library that starts threads.
    fn start_function(&self, stack: NodeIndex) -> NodeIndex {
        let tree = &self.reader.recorder.tree;
        let path = tree.path_from_root(stack);
        let place = |node: &NodeIndex| tree.frame_of(*node).map(|f| f.place);
        let library: Option<MappingId> = match path.first().and_then(place) {
            Some(Place::User(id)) => Some(id),
            _ => None,
        };
        let file = |id: MappingId| self.reader.recorder.mappings.get(&id).and_then(|m| m.file);
        let outside = |node: &NodeIndex| match (place(node), library) {
            (Some(Place::User(id)), Some(library)) => file(id) != file(library),
            _ => false,
        };
        let at = path.iter().position(outside).unwrap_or(STATIC_START);
        path.get(at).or(path.last()).copied().unwrap_or(stack)
    }

    /// Describes which threads are counted.
    fn account(&self, created: u64) -> String {
        let threads = |n: u64| match n {
            0 => "no thread was".to_owned(),
            1 => "1 thread was".to_owned(),
            n => format!("{n} threads were"),
        };
        let created = format!("{} created during the recording", threads(created));
        match self.existing.len() as u64 {
            0 => format!("{created}; before it, each process had only its main thread"),
            1 => format!(
                "{created}; 1 earlier thread is counted at its start function and has the label \
                 existing"
            ),
            n => format!(
                "{created}; {n} earlier threads are counted at their start functions and have the \
                 label existing"
            ),
        }
    }

    fn samples(&mut self) -> Vec<Valued> {
        let named = self.reader.recorder.processes.named_threads().to_vec();
        let counts = std::mem::take(&mut self.reader.recorder.counts).sorted();
        let mut samples: Vec<Valued> = counts
            .into_iter()
            .map(|(key, count)| Valued {
                thread: named[key.thread as usize].clone(),
                stack: key.stack,
                labels: Vec::new(),
                values: vec![i64::try_from(count.samples).unwrap_or(i64::MAX)],
            })
            .collect();
        let mut existing: BTreeMap<(NodeIndex, i32), &NamedThread> = BTreeMap::new();
        for (thread, stack) in &self.existing {
            existing.insert((*stack, thread.id.tid), thread);
        }
        samples.extend(existing.into_iter().map(|((stack, _), thread)| Valued {
            thread: thread.clone(),
            stack,
            labels: vec![("existing".into(), "true".into())],
            values: vec![1],
        }));
        samples
    }
}

impl Collector for Creations {
    fn begin(&mut self) -> Result<(), RecordError> {
        self.reader.begin(&self.rings, None);
        if !self.before_exec {
            for process in self.followed.clone() {
                match self.take_existing(&process) {
                    // A process that a target forked may have exited in the meantime.
                    Err(_) if !process.is_alive() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Progress {
        self.reader.read_settled(&mut self.rings, &mut |recorder, e| recorder.event(e));
        let samples = self.reader.recorder.stats.kept;
        let lost = self.reader.lost_as_reported(&self.rings);
        Progress { samples, lost, ..Progress::default() }
    }

    fn any_alive(&mut self) -> bool {
        self.reader.any_alive(&mut self.rings, &mut |recorder, e| recorder.event(e))
    }

    fn end(&mut self) {
        self.sampler.disable();
        self.reader.end();
    }

    fn finish(mut self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        self.read_all();
        let created = self.reader.recorder.stats.kept;
        let samples = self.samples();
        self.reader.recorder.stats.kept += self.existing.len() as u64;
        let named = self.targets.name(&mut self.reader.recorder);
        let losses = self.rings.losses();
        let facts = self.reader.facts(losses, self.reader.lost(losses.lost));
        let mut notes = self.stops.notes();
        notes.extend_from_slice(self.reader.recorder.processes.family_notes());
        notes.push(self.account(created));
        let stats = Stats {
            backend: "perf_event tracepoint task:task_newtask, per CPU, filtered".into(),
            notes,
            ..Stats::new(facts, &named.losses)
        };
        let header = Header { kind: &THREADCREATE, period: 1, time: self.reader.time };
        let recorded = (&self.reader.recorder, &named);
        let profile = self.targets.build(&header, recorded, &stats, &samples)?;
        Ok(Outcome { profile, stats, ended })
    }
}

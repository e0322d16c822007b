//! Records `block` and `mutex` with perf events alone, where BPF programs are not allowed.
//!
//! Perf events do not say which thread unlocked, so `mutex` shows the stacks of the waiting
//! threads.

use std::cell::RefCell;
use std::rc::Rc;

use aggregate::ids::{NodeIndex, Place, ThreadIndex};
use aggregate::recorder::Recorder;
use assemble::conclude::{Named, Targets};
use host::rights::Obstacle;
use rustc_hash::FxHashMap;

use super::by_bpf::missing_functions;
use super::contentions::{self, Contentions, Key, Sum};
use super::locks::{self, Class};
use super::programs;
use super::shared::{self, Scope, SharedRecording, WaitProfile};
use super::switches::{EndedWait, Switches, kind_of};
use crate::collector::{Collector, Progress, Request};
use crate::options::Backend;
use crate::outcome::{Ended, Outcome, RecordError};
use crate::perf::attach::AttachError;

/// Records with BPF programs, or with perf events and a note that says why BPF is not used.
pub(super) fn by_programs_or_perf(
    request: &Request<'_>,
    kind: Box<dyn WaitProfile>,
) -> Result<Box<dyn Collector>, RecordError> {
    shared::join(request, kind, || {
        let why = match request.options.backend {
            Backend::Perf => "--backend perf was given".to_owned(),
            Backend::Ptrace => {
                let why = "the ptrace backend cannot record waits; use --backend auto or perf";
                return Err(RecordError::NotApplicable(why.into()));
            }
            Backend::Auto => match programs::open(request) {
                Err(RecordError::Waits(e)) => reason(&e),
                other => return other,
            },
        };
        by_perf(request, why).map_err(|e| prefer_bpf_obstacle(e, request.options.backend))
    })
}

/// Chooses the error for users who may use neither BPF programs nor perf events: the fix is the one
/// for BPF programs, since they give the better profile.
fn prefer_bpf_obstacle(e: RecordError, backend: Backend) -> RecordError {
    let bpf = host::Rights::read().ok().and_then(|r| r.bpf().err());
    match (e, bpf) {
        (RecordError::Attach(AttachError::NotPermitted(perf)), Some(bpf))
            if backend == Backend::Auto =>
        {
            let reason =
                format!("{}, and perf events do not work either: {}", bpf.reason, perf.reason);
            AttachError::NotPermitted(Obstacle { reason, fix: bpf.fix }).into()
        }
        (e, _) => e,
    }
}

fn by_perf(
    request: &Request<'_>,
    why: String,
) -> Result<Rc<RefCell<dyn SharedRecording>>, RecordError> {
    Ok(Rc::new(RefCell::new(PerfRecording {
        targets: request.targets(),
        switches: Switches::attach(request)?,
        why,
        scopes: Vec::new(),
        begun: false,
        sums: FxHashMap::default(),
        named: None,
    })))
}

/// Why BPF programs cannot be used, in one line.
fn reason(e: &events::WaitError) -> String {
    let rights = host::Rights::read().ok().and_then(|r| r.bpf().err());
    match rights {
        Some(obstacle) => obstacle.to_string(),
        None => e.to_string(),
    }
}

/// A thread and where it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Site {
    thread: ThreadIndex,
    /// The user stack.
    user: NodeIndex,
    /// The user stack with the kernel stack on top.
    stack: NodeIndex,
    in_progress: bool,
}

struct PerfRecording {
    switches: Switches,
    targets: Targets,
    /// Why BPF programs are not used.
    why: String,
    /// Which waits each kind uses.
    scopes: Vec<Scope>,
    begun: bool,
    sums: FxHashMap<Site, Sum>,
    /// The names of all frames, once everything has been read.
    named: Option<Named>,
}

impl SharedRecording for PerfRecording {
    fn join(&mut self, kind: Box<dyn WaitProfile>) -> usize {
        self.scopes.push(kind.scope());
        self.scopes.len() - 1
    }

    fn begin(&mut self) -> Result<(), RecordError> {
        self.switches.begin();
        self.begun = true;
        Ok(())
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn poll(&mut self) -> Progress {
        let (period, sums) = (self.switches.period, &mut self.sums);
        self.switches.poll(&mut |_, ended| add(sums, period, ended))
    }

    fn any_alive(&mut self) -> bool {
        let (period, sums) = (self.switches.period, &mut self.sums);
        self.switches.any_alive(&mut |_, ended| add(sums, period, ended))
    }

    fn end(&mut self) {
        self.switches.end();
    }

    fn conclude(&mut self, number: usize, ended: Ended) -> Result<Outcome, RecordError> {
        let Self { switches, sums, .. } = self;
        let named = self.named.get_or_insert_with(|| {
            let period = switches.period;
            switches.finish(&mut |_, ended| add(sums, period, ended));
            switches.reader.recorder.look_for_runtimes();
            self.targets.name(&mut switches.reader.recorder)
        });
        let scope = self.scopes.get(number).copied().unwrap_or(Scope::All);
        let mut contentions = Contentions::default();
        for (site, sum) in &*sums {
            if let Some(labels) = labels(*site, scope, &switches.reader.recorder, named) {
                let key = Key { thread: site.thread, stack: site.stack, labels };
                contentions.add(key, *sum);
            }
        }
        let mut stats = switches.stats();
        stats.notes.push(format!("sampled by perf events, without BPF programs: {}", self.why));
        stats
            .notes
            .extend(missing_functions(&switches.reader.recorder, "this requires BPF programs"));
        if scope == Scope::Locks {
            stats.notes.push(
                "stacks are those of the waiting threads: only BPF programs can tell which thread \
                 unlocked"
                    .into(),
            );
        }
        let profile = contentions::conclude(
            contentions,
            &self.targets,
            (&switches.reader.recorder, named),
            switches.reader.time,
            &mut stats,
        )?;
        Ok(Outcome { profile, stats, ended })
    }
}

fn add(sums: &mut FxHashMap<Site, Sum>, period: u64, ended: &EndedWait<'_>) {
    let wait = ended.wait;
    let site = Site {
        thread: wait.thread,
        user: wait.user,
        stack: wait.stack,
        in_progress: ended.in_progress,
    };
    let sum = Sum::of_sample(period as f64, ended.delay.saturating_mul(period));
    sums.entry(site).or_default().add(sum);
}

/// The labels of a site's waits; `None` if the scope does not include them.
fn labels(
    site: Site,
    scope: Scope,
    recorder: &Recorder,
    named: &Named,
) -> Option<Vec<(&'static str, &'static str)>> {
    let frames = recorder.tree.frames();
    let in_kernel =
        recorder.tree.stack(site.stack).filter(|f| frames[*f as usize].place == Place::Kernel);
    let functions = in_kernel.flat_map(|f| &named.resolved[f as usize].functions);
    let kind = kind_of(functions.map(|f| &*f.name));
    let mut labels = Vec::new();
    match scope {
        Scope::All => labels.push(("wait", kind)),
        Scope::Locks => {
            let names = locks::names(site.user, recorder, named);
            // Perf events do not report the futex operation.
            let class = locks::classify(names.into_iter(), (0, 0));
            if kind != "futex" || class != Class::Lock {
                return None;
            }
        }
    }
    if site.in_progress {
        labels.push(("in_progress", "true"));
    }
    Some(labels)
}

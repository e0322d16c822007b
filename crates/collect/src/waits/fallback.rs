//! `block` and `mutex` where BPF programs are not allowed: by perf events alone.
//!
//! Who unlocked is not known then: `mutex` gives the stacks of those that waited.

use std::cell::RefCell;
use std::rc::Rc;

use aggregate::ids::{NodeIndex, Place, ThreadIndex};
use aggregate::recorder::Recorder;
use assemble::conclude::{Named, Targets};
use host::rights::Obstacle;
use rustc_hash::FxHashMap;

use super::by_bpf::without_functions;
use super::contentions::{self, Contentions, Key, Sum};
use super::joint::{self, Joint, Listener, Scope};
use super::locks::{self, Class};
use super::programs;
use super::switches::{Ended as EndedWait, Switches, kind_of};
use crate::collector::{Collector, Progress, Request};
use crate::options::Backend;
use crate::outcome::{Ended, Outcome, RecordError};
use crate::perf::attach::AttachError;

/// Takes part in what BPF programs sample, or else in what perf events can give, saying why.
pub(super) fn by_programs_or_perf(
    request: &Request<'_>,
    kind: Box<dyn Listener>,
) -> Result<Box<dyn Collector>, RecordError> {
    joint::take_part(request, kind, || {
        let why = match request.options.backend {
            Backend::Perf => "as asked for".to_owned(),
            Backend::Ptrace => {
                let why =
                    "by ptrace there are cpu, wall, goroutine and dump; waits need BPF or perf";
                return Err(RecordError::NotApplicable(why.into()));
            }
            Backend::Auto => match programs::open(request) {
                Err(RecordError::Waits(e)) => reason(&e),
                other => return other,
            },
        };
        by_perf(request, why).map_err(|e| neither(e, request.options.backend))
    })
}

/// What permits BPF programs gives the better profile, and is the one thing to say where perf
/// events are not permitted either.
fn neither(e: RecordError, backend: Backend) -> RecordError {
    let bpf = host::Rights::read().ok().and_then(|r| r.bpf().err());
    match (e, bpf) {
        (RecordError::Attach(AttachError::NotPermitted(perf)), Some(bpf))
            if backend == Backend::Auto =>
        {
            let reason = format!("{}, and without them {}", bpf.reason, perf.reason);
            AttachError::NotPermitted(Obstacle { reason, remedy: bpf.remedy }).into()
        }
        (e, _) => e,
    }
}

fn by_perf(request: &Request<'_>, why: String) -> Result<Rc<RefCell<dyn Joint>>, RecordError> {
    Ok(Rc::new(RefCell::new(ByPerf {
        targets: request.targets(),
        switches: Switches::attach(request)?,
        why,
        scopes: Vec::new(),
        begun: false,
        sums: FxHashMap::default(),
        named: None,
    })))
}

/// The error with its causes, in one line.
fn reason(e: &events::WaitError) -> String {
    let rights = host::Rights::read().ok().and_then(|r| r.bpf().err());
    match rights {
        Some(obstacle) => obstacle.to_string(),
        None => e.to_string(),
    }
}

/// Whose waits, and where the thread waits in user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Site {
    thread: ThreadIndex,
    user: NodeIndex,
    stack: NodeIndex,
    in_progress: bool,
}

struct ByPerf {
    switches: Switches,
    targets: Targets,
    /// Why not by BPF.
    why: String,
    /// What each kind takes of it.
    scopes: Vec<Scope>,
    begun: bool,
    sums: FxHashMap<Site, Sum>,
    /// The names of all frames, once everything has come.
    named: Option<Named>,
}

impl Joint for ByPerf {
    fn join(&mut self, kind: Box<dyn Listener>) -> usize {
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

    fn someone_lives(&mut self) -> bool {
        let (period, sums) = (self.switches.period, &mut self.sums);
        self.switches.someone_lives(&mut |_, ended| add(sums, period, ended))
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
        stats.notes.push(format!("sampled by perf events, without bpf programs: {}", self.why));
        stats.notes.extend(without_functions(&switches.reader.recorder, "it takes bpf programs"));
        if scope == Scope::Locks {
            stats.notes.push(
                "stacks are those of the waiting threads: who unlocked is known with bpf \
                 programs only"
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

/// The labels of a site's waits; `None` where they are not in the scope.
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
            // The operation of the futex is not known.
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

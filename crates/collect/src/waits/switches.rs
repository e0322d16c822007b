//! Samples waits with perf events alone, where BPF programs are not allowed.
//!
//! A sample is taken each time that a thread has been switched out `period` times. The wait lasts
//! until the thread is switched in again, and represents `period` waits. Compared to BPF programs,
//! long waits are thus sampled as rarely as short ones, the kernel writes a record for every switch
//! of the target, and the time until a CPU is free counts as waiting. The period is prime, so that
//! it does not fall into step with a program that waits in several places in turn.

use std::sync::Arc;
use std::time::Duration;

use aggregate::clock::monotonic_now;
use aggregate::ids::{NodeIndex, ThreadId, ThreadIndex};
use aggregate::recorder::Recorder;
use aggregate::rings::{KnownThreads, RingReader};
use aggregate::runtimes::WhichChain;
use assemble::Stats;
use events::{Event, EventKind};
use process::Process;
use rustc_hash::FxHashMap;

use crate::collector::{Progress, Request};
use crate::perf::attach::{self, AttachError, Attached};
use crate::plural::counted;

/// How long the target's switches are counted before the period is chosen.
const MEASURE_TIME: Duration = Duration::from_millis(100);
/// The period is chosen to give at most this many samples per second.
const SAMPLES_PER_SECOND: u64 = 5000;
/// The periods to choose from. None but 1 is as short as the loops of usual programs: with a period
/// of 3, a loop that waits for a lock, for its work and for the next turn would always be sampled
/// at the same of the three.
const PERIODS: &[u64] = &[1, 7, 17, 31, 97, 293, 997, 4999];
/// Beyond this many switches per second, a target is slowed down noticeably whatever the period.
const COSTLY_PER_SECOND: u64 = 50_000;

/// A wait, sampled when it begins.
pub(super) struct Wait {
    pub thread: ThreadIndex,
    /// The user stack.
    pub user: NodeIndex,
    /// The user stack with the kernel stack on top.
    pub stack: NodeIndex,
    /// When the thread was switched out (CLOCK_MONOTONIC, nanoseconds).
    out: u64,
}

/// A sampled wait and its length. It represents [`Switches::period`] waits.
pub(super) struct EndedWait<'a> {
    pub wait: &'a Wait,
    /// Nanoseconds.
    pub delay: u64,
    pub in_progress: bool,
}

/// A running recording of waits.
pub(super) struct Switches {
    pub reader: RingReader,
    pub period: u64,
    attached: Attached,
    per_second: u64,
    waits: FxHashMap<i32, Wait>,
}

impl Switches {
    /// Attaches to the targets.
    pub fn attach(request: &Request<'_>) -> Result<Self, AttachError> {
        let roots = &request.family().processes;
        let per_second = switches_per_second(roots);
        let fits = |p: &&u64| per_second / **p <= SAMPLES_PER_SECOND;
        let period = PERIODS.iter().find(fits).or(PERIODS.last()).copied().unwrap_or(1);
        let options = request.options;
        let (reader, attached) =
            RingReader::attach(request.family(), options.children, 1, KnownThreads::All, |r| {
                attach::attach_to_switches(roots, options, period, r)
            })?;
        Ok(Self { reader, period, attached, per_second, waits: FxHashMap::default() })
    }

    /// Begins the recording.
    pub fn begin(&mut self) {
        self.read_all(&mut |_, _| {});
        self.waits.clear();
        let lost = self.lost();
        self.reader.begin(&self.attached.rings, Some(lost));
    }

    /// Reads new samples.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&mut Recorder, &EndedWait<'_>)) -> Progress {
        let waits = &mut self.waits;
        self.reader.read_settled(&mut self.attached.rings, &mut |r, e| event(r, waits, e, sink));
        self.attached.drop_doubled(&mut self.reader.recorder);
        Progress {
            elapsed: Duration::ZERO,
            samples: self.reader.recorder.stats.kept,
            lost: self.reader.lost_as_reported(&self.attached.rings),
        }
    }

    /// Whether a followed process is still running.
    pub fn any_alive(&mut self, sink: &mut dyn FnMut(&mut Recorder, &EndedWait<'_>)) -> bool {
        let (rings, waits) = (&mut self.attached.rings, &mut self.waits);
        self.reader.any_alive(rings, &mut |r, e| event(r, waits, e, sink))
    }

    /// Ends the recording.
    pub fn end(&mut self) {
        let _ = self.attached.sampler.disable();
        self.reader.end();
    }

    /// Reads what is left in the rings, and passes on the waits that have not ended.
    pub fn finish(&mut self, sink: &mut dyn FnMut(&mut Recorder, &EndedWait<'_>)) {
        self.read_all(sink);
        let mut waits: Vec<_> = std::mem::take(&mut self.waits).into_iter().collect();
        waits.sort_unstable_by_key(|(tid, _)| *tid);
        for (_, wait) in &waits {
            let delay = self.reader.ended_at().saturating_sub(wait.out);
            self.reader.recorder.stats.kept += 1;
            sink(&mut self.reader.recorder, &EndedWait { wait, delay, in_progress: true });
        }
    }

    fn read_all(&mut self, sink: &mut dyn FnMut(&mut Recorder, &EndedWait<'_>)) {
        let waits = &mut self.waits;
        self.reader.read_all(&mut self.attached.rings, &mut |r, e| event(r, waits, e, sink));
    }

    fn lost(&self) -> u64 {
        self.attached.sampler.lost().unwrap_or(0).max(self.attached.rings.losses().lost)
    }

    /// How the waits were recorded, and what is missing.
    pub fn stats(&self) -> Stats {
        let losses = self.attached.rings.losses();
        let which = match self.period {
            1 => "every context switch".to_owned(),
            n => format!("one in {n} context switches"),
        };
        let mut notes = vec![format!(
            "{which} was sampled; the time until a CPU is free counts as waiting, and threads that \
             waited during the whole recording are missing"
        )];
        if self.per_second > COSTLY_PER_SECOND {
            notes.push(format!(
                "sampling slows down the target, which makes {} context switches per second; BPF \
                 programs, if permitted, slow it down less",
                self.per_second
            ));
        }
        if self.attached.uncovered > 0 {
            notes.push(format!(
                "could not sample {}: the program creates threads too fast",
                counted(self.attached.uncovered as u64, "thread")
            ));
        }
        notes.extend_from_slice(self.reader.recorder.processes.family_notes());
        Stats {
            backend: self.attached.backend(),
            notes,
            ..Stats::from(self.reader.facts(losses, self.reader.lost(self.lost())))
        }
    }
}

/// Handles an event. For a switch, the kernel writes the sample first, then the record of switching
/// out, then that of switching in.
fn event(
    recorder: &mut Recorder,
    waits: &mut FxHashMap<i32, Wait>,
    e: &Event<'_>,
    sink: &mut dyn FnMut(&mut Recorder, &EndedWait<'_>),
) {
    match e.kind {
        EventKind::Sample(ref s) if e.time >= recorder.start => {
            let Some(thread) = recorder.processes.sampled(e.pid, e.tid) else { return };
            let id = ThreadId { pid: e.pid, tid: e.tid };
            let (user, _) = recorder.user_stack(id, e.time, WhichChain::None, s);
            let stack = recorder.kernel_stack(user, s.callchain.iter());
            waits.insert(e.tid, Wait { thread, user, stack, out: e.time });
        }
        EventKind::Switch { out: true, preempted: true } => {
            waits.remove(&e.tid);
        }
        EventKind::Switch { out: false, .. } => {
            if let Some(wait) = waits.remove(&e.tid) {
                let delay = e.time.saturating_sub(wait.out);
                recorder.stats.kept += 1;
                recorder.stats.contexts_cut = recorder.tree.is_full();
                sink(recorder, &EndedWait { wait: &wait, delay, in_progress: false });
            }
        }
        EventKind::Sample(_) | EventKind::Switch { .. } => {}
        EventKind::Exit(f) => {
            waits.remove(&f.tid);
            recorder.event(e);
        }
        _ => recorder.event(e),
    }
}

fn switches_per_second(roots: &[Arc<Process>]) -> u64 {
    let count = || -> u64 {
        let of = |p: &Arc<Process>| {
            let tids = p.threads().unwrap_or_default();
            tids.iter().filter_map(|&tid| p.thread_switches(tid).ok()).sum::<u64>()
        };
        roots.iter().map(of).sum()
    };
    let (before, began) = (count(), monotonic_now());
    std::thread::sleep(MEASURE_TIME);
    let elapsed = monotonic_now().saturating_sub(began).max(1);
    count().saturating_sub(before).saturating_mul(1_000_000_000) / elapsed
}

/// What a thread waits for, by the functions of its kernel stack, because perf's samples do not
/// report the system call.
pub(super) fn kind_of<'a>(kernel: impl Iterator<Item = &'a str>) -> &'static str {
    const KINDS: &[(&str, &[&str])] = &[
        ("futex", &["futex"]),
        ("sleep", &["nanosleep"]),
        ("poll", &["poll", "select", "io_cqring_wait", "read_events"]),
        ("child", &["do_wait", "kernel_wait4", "waitid"]),
        ("signal", &["sigsuspend", "sigtimedwait", "sys_pause"]),
        ("page fault", &["page_fault"]),
        ("stopped", &["do_signal_stop", "ptrace_stop"]),
        (
            "io",
            &[
                "read", "write", "recv", "send", "accept", "connect", "sync", "splice", "getdents",
                "open", "close", "unlink", "rename", "flock", "fcntl", "ioctl", "statx",
                "truncate",
            ],
        ),
    ];
    let functions: Vec<&str> = kernel.collect();
    let holds = |parts: &[&str]| functions.iter().any(|f| parts.iter().any(|p| f.contains(p)));
    KINDS.iter().find(|(_, parts)| holds(parts)).map_or("other", |(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn kinds_by_kernel_functions() {
        let kind = |functions: &[&'static str]| kind_of(functions.iter().copied());
        assert_eq!(kind(&["schedule", "futex_wait_queue", "do_futex", "__x64_sys_futex"]), "futex");
        assert_eq!(kind(&["do_nanosleep", "__x64_sys_clock_nanosleep"]), "sleep");
        assert_eq!(kind(&["anon_pipe_read", "vfs_read", "ksys_read"]), "io");
        assert_eq!(kind(&["ep_poll", "do_epoll_wait"]), "poll");
        assert_eq!(kind(&["folio_wait_bit", "filemap_fault", "exc_page_fault"]), "page fault");
        assert_eq!(kind(&[]), "other");
    }
}

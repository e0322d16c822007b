//! `mutex`: who holds locks that others wait for.
//!
//! Values are Go's: the stack is that of the thread that unlocked, and the delay what all waiters
//! of the lock waited since the last time that one of them was let through. The programs charge
//! every futex so; which futexes are locks is told at the end, by the names in the stacks of the
//! waiters ([`locks`]). With `--waiters` it is the waiting side: the stacks of those that waited.

use events::{WaitId, WaitKind, WaitPlace, WaitSample, Woke};
use rustc_hash::FxHashMap;
use target::Root;

use super::contentions::{self, Contentions, Key, Sum};
use super::fallback::{self, Scope};
use super::locks::{self, Class};
use super::waits::{Taken, Waits, rate_note};
use crate::conclude::{self, Named};
use crate::recorder::Recorder;
use crate::session::{Collector, Ended, Progress, RecordOptions, Request};
use crate::stacks::{NodeIndex, ThreadIndex};
use crate::symbols::TargetFiles;
use crate::{Outcome, RecordError};

/// More wakings than this do not wait for the stacks of whom they woke.
const MAX_JOINING: usize = 65_536;

/// Attaches to the targets.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    fallback::or_by_perf(request, Scope::Locks, || by_bpf(request))
}

fn by_bpf(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let files = TargetFiles(request.roots.iter().filter_map(|p| Root::of(p).ok()).collect());
    let waiters = request.options.waiters;
    let waits = Waits::attach(request, waiters, !waiters, true)?;
    let options = request.options.clone();
    Ok(Box::new(Mutex { waits, files, options, tally: Tally { waiters, ..Tally::default() } }))
}

struct Mutex {
    waits: Waits,
    files: TargetFiles,
    options: RecordOptions,
    tally: Tally,
}

/// A waiter by what tells its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Waiter {
    /// Its user stack, where that was taken.
    stack: Option<NodeIndex>,
    futex: (u32, u32),
}

/// Contentions by whose they are and by who waited: what is a lock is known at the end.
#[derive(Default)]
struct Tally {
    waiters: bool,
    sums: FxHashMap<(Key, Waiter), Sum>,
    /// Wakings whose waiters have not been seen yet.
    joining: FxHashMap<WaitId, (ThreadIndex, NodeIndex, Woke)>,
}

impl Collector for Mutex {
    fn begin(&mut self) -> Result<(), RecordError> {
        self.waits.begin()
    }

    fn poll(&mut self) -> Progress {
        let tally = &mut self.tally;
        self.waits.poll(&mut |recorder, taken| tally.add(recorder, taken))
    }

    fn someone_lives(&mut self) -> bool {
        self.waits.someone_lives()
    }

    fn end(&mut self) {
        let tally = &mut self.tally;
        self.waits.end(&mut |recorder, taken| tally.add(recorder, taken));
    }

    fn finish(mut self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        let tally = &mut self.tally;
        self.waits.finish(&mut |recorder, taken| tally.add(recorder, taken));
        tally.give_up_joining();
        if tally.waiters {
            for u in self.waits.unfinished() {
                let waiter = Waiter { stack: Some(u.user), futex: u.waiting.place.futex };
                let labels = vec![("in_progress", "true")];
                let delay = u.waiting.now.saturating_sub(u.waiting.id.out);
                if u.waiting.place.kind() == WaitKind::Futex {
                    let key = Key { thread: u.thread, stack: u.stack, labels };
                    tally.put(key, waiter, 1.0, delay);
                }
            }
        }
        let recorder = &mut self.waits.recorder;
        let named = conclude::name(recorder, &self.waits.roots, &self.files);
        let (contentions, others) = self.tally.locks_only(recorder, &named);
        let mut stats = self.waits.stats();
        let (block, mutex) = self.waits.rates();
        let rate = if self.options.waiters { block } else { mutex };
        stats.notes.push(rate_note(rate, &self.options));
        if self.options.waiters {
            stats
                .notes
                .push("stacks are those of the waiting threads, not of the unlocking".into());
        }
        if others > 0 {
            stats
                .notes
                .push(format!("{others} samples of waits that are none for a lock were left out"));
        }
        let profile = contentions::conclude(
            contentions,
            (&self.waits.recorder, &named),
            (&self.waits.roots, &self.options),
            self.waits.time,
            &mut stats,
        )?;
        Ok(Outcome { profile, stats, ended })
    }
}

impl Tally {
    fn add(&mut self, recorder: &mut Recorder, taken: &Taken<'_>) {
        match &taken.sample {
            WaitSample::Woke(woke) => {
                recorder.stats.kept += 1;
                if self.joining.len() >= MAX_JOINING {
                    self.give_up_joining();
                }
                self.joining.insert(woke.woken, (taken.thread, taken.stack, *woke));
            }
            WaitSample::Waited(waited) if self.waiters => {
                recorder.stats.kept += 1;
                let stack = recorder.kernel_stack(taken.stack, waited.kernel.iter());
                let stack_of_waiter = (!waited.stack_changed).then_some(taken.stack);
                let waiter = Waiter { stack: stack_of_waiter, futex: waited.place.futex };
                let key = Key { thread: taken.thread, stack, labels: Vec::new() };
                // As with the unlocker, the delay ends at waking.
                self.put(key, waiter, waited.wait.1.get(), waited.wait.0);
            }
            WaitSample::Waited(waited) => {
                let joined = waited.woken.and_then(|id| self.joining.remove(&id));
                if let Some((thread, stack, woke)) = joined {
                    let waiter = (!waited.stack_changed).then_some(taken.stack);
                    self.put_waking(thread, stack, &woke, waiter);
                }
            }
        }
    }

    fn put(&mut self, key: Key, waiter: Waiter, contended: f64, delay: u64) {
        self.sums.entry((key, waiter)).or_default().add(Sum::of_sample(contended, delay));
    }

    fn put_waking(
        &mut self,
        thread: ThreadIndex,
        stack: NodeIndex,
        woke: &Woke,
        waiter: Option<NodeIndex>,
    ) {
        let WaitPlace { futex, .. } = woke.place;
        let key = Key { thread, stack, labels: Vec::new() };
        self.put(key, Waiter { stack: waiter, futex }, woke.wait.1.get(), woke.wait.0);
    }

    /// The waiters of these never came by: of what kind they were, their futexes have to tell.
    fn give_up_joining(&mut self) {
        for (_, (thread, stack, woke)) in std::mem::take(&mut self.joining) {
            self.put_waking(thread, stack, &woke, None);
        }
    }

    /// What was waited for locks, and how many samples are left out.
    fn locks_only(self, recorder: &Recorder, named: &Named) -> (Contentions, u64) {
        let mut classes: FxHashMap<Waiter, Class> = FxHashMap::default();
        let mut contentions = Contentions::default();
        let mut others = 0;
        for ((key, waiter), sum) in self.sums {
            let class = *classes.entry(waiter).or_insert_with(|| class_of(waiter, recorder, named));
            let waker = (!self.waiters).then(|| locks::names(key.stack, recorder, named));
            let innermost = waker.and_then(|names| names.first().copied().flatten());
            if class == Class::Lock && !locks::unlocks_nothing(innermost) {
                contentions.add(key, sum);
            } else {
                others += sum.samples;
            }
        }
        (contentions, others)
    }
}

fn class_of(waiter: Waiter, recorder: &Recorder, named: &Named) -> Class {
    let names = waiter.stack.map(|node| locks::names(node, recorder, named)).unwrap_or_default();
    locks::classify(names.into_iter(), waiter.futex)
}

//! Makes the `mutex` profile: which threads hold the locks that others wait for.
//!
//! The values are Go's: the stack is that of the thread that unlocked, and the delay is the time
//! that all waiters of the lock have waited since one of them was last woken. The BPF programs
//! charge wakeups of every futex that way; which futexes are locks is decided at the end, by the
//! function names in the waiters' stacks ([`locks`]). With `--waiters`, the stacks are those of the
//! waiting threads instead.

use std::time::Duration;

use aggregate::ids::{NodeIndex, ThreadIndex};
use aggregate::recorder::Recorder;
use assemble::conclude::Named;
use events::{WaitId, WaitKind, WaitReason, WaitSample, WaitWants, Woke};
use rustc_hash::FxHashMap;

use super::by_bpf::{StackSample, rate_note};
use super::contentions::{Contentions, Key, Sum};
use super::fallback;
use super::locks::{self, Class};
use super::shared::{FinishedWaits, Scope, WaitProfile};
use crate::collector::{Collector, Request};
use crate::kinds::options::{KindOption, OptionValue};
use crate::outcome::RecordError;
use crate::plural::counted;

/// Charges mutex samples to the waiting thread instead of the unlocking thread.
pub(crate) const WAITERS: KindOption = KindOption {
    name: "waiters",
    help: "Charge samples to the waiting thread instead of the unlocking thread (mutex only)",
    default: OptionValue::Flag(false),
};

/// At most this many wakeups are kept until the woken thread's stack arrives.
const MAX_UNMATCHED: usize = 65_536;

/// Attaches to the targets.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let tally = Tally { waiters: request.options.own.flag(&WAITERS), ..Tally::default() };
    fallback::by_programs_or_perf(request, Box::new(tally))
}

/// What decides whether a waiter waits for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Waiter {
    /// Its user stack, if it was taken.
    stack: Option<NodeIndex>,
    /// The futex operation and the expected value.
    futex: (u32, u32),
}

/// Contentions by stack and waiter: which of them are for locks is only known at the end.
#[derive(Default)]
struct Tally {
    /// `--waiters`.
    waiters: bool,
    sums: FxHashMap<(Key, Waiter), Sum>,
    /// Wakeups whose waiters have not been seen yet.
    unmatched: FxHashMap<WaitId, (ThreadIndex, NodeIndex, Woke)>,
}

impl WaitProfile for Tally {
    fn wants(&self) -> WaitWants {
        WaitWants { waits: self.waiters, wakings: !self.waiters, futexes_only: true }
    }

    fn scope(&self) -> Scope {
        Scope::Locks
    }

    fn add_sample(&mut self, recorder: &mut Recorder, sampled: &StackSample<'_>) {
        match &sampled.sample {
            WaitSample::Woke(woke) if !self.waiters => {
                if self.unmatched.len() >= MAX_UNMATCHED {
                    self.flush_unmatched();
                }
                self.unmatched.insert(woke.woken, (sampled.thread, sampled.stack, *woke));
            }
            WaitSample::Woke(_) => {}
            // Other waits are sampled for `block`.
            WaitSample::Waited(waited) if self.waiters => {
                if waited.wait.0 == 0 || waited.place.kind() != WaitKind::Futex {
                    return;
                }
                let stack = recorder.kernel_stack(sampled.stack, waited.kernel.iter());
                let waiter_stack = (!waited.stack_changed).then_some(sampled.stack);
                let waiter = Waiter { stack: waiter_stack, futex: waited.place.futex };
                let key = Key { thread: sampled.thread, stack, labels: Vec::new() };
                // The delay ends when the thread is woken, as it does for the unlocking thread.
                self.add(key, waiter, waited.wait.1.get(), waited.wait.0);
            }
            WaitSample::Waited(waited) => {
                let joined = waited.woken.and_then(|id| self.unmatched.remove(&id));
                if let Some((thread, stack, woke)) = joined {
                    let waiter = (!waited.stack_changed).then_some(sampled.stack);
                    self.add_wakeup(thread, stack, &woke, waiter);
                }
            }
        }
    }

    fn conclude(
        mut self: Box<Self>,
        recorded: &FinishedWaits<'_>,
        notes: &mut Vec<String>,
    ) -> Contentions {
        self.flush_unmatched();
        if self.waiters {
            for u in recorded.waits.unfinished() {
                let waiter = Waiter { stack: Some(u.user), futex: u.waiting.place.futex };
                let labels = vec![("in_progress", "true")];
                let delay = u.waiting.now.saturating_sub(u.waiting.id.out);
                if u.waiting.place.kind() == WaitKind::Futex {
                    let key = Key { thread: u.thread, stack: u.stack, labels };
                    self.add(key, waiter, 1.0, delay);
                }
            }
        }
        let (block, mutex) = recorded.waits.rates();
        notes.push(rate_note(if self.waiters { block } else { mutex }, recorded.options));
        if self.waiters {
            notes.push("stacks are those of the waiting threads, not the unlocking ones".into());
        }
        let (contentions, others, nameless) =
            self.locks_only(&recorded.waits.reader.recorder, recorded.named);
        if contentions.is_empty() {
            notes.push("no thread waited for a lock during the recording".into());
        }
        if others > 0 {
            let samples = counted(others, "sample");
            notes.push(format!("left out {samples} of waits that were not for a lock"));
        }
        if nameless.samples > 0 {
            notes.push(format!(
                "also left out {} ({:.1?} of waiting) in code without symbols that calls futex(2) \
                 itself: only debug symbols can tell whether it waits for a lock",
                counted(nameless.samples, "sample"),
                Duration::from_nanos(nameless.delay as u64)
            ));
        }
        contentions
    }
}

impl Tally {
    fn add(&mut self, key: Key, waiter: Waiter, contended: f64, delay: u64) {
        self.sums.entry((key, waiter)).or_default().add(Sum::of_sample(contended, delay));
    }

    fn add_wakeup(
        &mut self,
        thread: ThreadIndex,
        stack: NodeIndex,
        woke: &Woke,
        waiter: Option<NodeIndex>,
    ) {
        let WaitReason { futex, .. } = woke.place;
        let key = Key { thread, stack, labels: Vec::new() };
        self.add(key, Waiter { stack: waiter, futex }, woke.wait.1.get(), woke.wait.0);
    }

    /// Adds the wakeups whose waiters' stacks never arrived: their futexes decide what they are.
    fn flush_unmatched(&mut self) {
        for (_, (thread, stack, woke)) in std::mem::take(&mut self.unmatched) {
            self.add_wakeup(thread, stack, &woke, None);
        }
    }

    /// The contentions of locks, the number of samples of other waits, and the total of waits whose
    /// class is unknown.
    fn locks_only(self, recorder: &Recorder, named: &Named) -> (Contentions, u64, Sum) {
        let mut classes: FxHashMap<Waiter, Class> = FxHashMap::default();
        let mut contentions = Contentions::default();
        let mut others = 0;
        let mut nameless = Sum::default();
        for ((key, waiter), sum) in self.sums {
            let class = *classes.entry(waiter).or_insert_with(|| class_of(waiter, recorder, named));
            let waker = (!self.waiters).then(|| locks::names(key.stack, recorder, named));
            let innermost = waker.and_then(|names| names.first().copied().flatten());
            let is_lock = match class {
                Class::Lock => !locks::unlocks_nothing(innermost),
                Class::LockByCondvar => true,
                Class::Other | Class::Nameless => false,
            };
            if is_lock {
                contentions.add(key, sum);
            } else if class == Class::Nameless {
                nameless.add(sum);
            } else {
                others += sum.samples;
            }
        }
        (contentions, others, nameless)
    }
}

fn class_of(waiter: Waiter, recorder: &Recorder, named: &Named) -> Class {
    let names = waiter.stack.map(|node| locks::names(node, recorder, named)).unwrap_or_default();
    locks::classify(names.into_iter(), waiter.futex)
}

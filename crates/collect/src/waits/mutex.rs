//! `mutex`: who holds locks that others wait for.
//!
//! Values are Go's: the stack is that of the thread that unlocked, and the delay what all waiters
//! of the lock waited since the last time that one of them was let through. The programs charge
//! every futex so; which futexes are locks is told at the end, by the names in the stacks of the
//! waiters ([`locks`]). With `--waiters` it is the waiting side: the stacks of those that waited.

use std::time::Duration;

use aggregate::ids::{NodeIndex, ThreadIndex};
use aggregate::recorder::Recorder;
use assemble::conclude::Named;
use events::{WaitId, WaitKind, WaitPlace, WaitSample, WaitWants, Woke};
use rustc_hash::FxHashMap;

use super::by_bpf::{Taken, rate_note};
use super::contentions::{Contentions, Key, Sum};
use super::fallback;
use super::joint::{Heard, Listener, Scope};
use super::locks::{self, Class};
use crate::collector::{Collector, Request};
use crate::kinds::options::WAITERS;
use crate::outcome::RecordError;

/// More wakings than this do not wait for the stacks of whom they woke.
const MAX_JOINING: usize = 65_536;

/// Attaches to the targets.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let tally = Tally { waiters: request.options.own.flag(&WAITERS), ..Tally::default() };
    fallback::by_programs_or_perf(request, Box::new(tally))
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

impl Listener for Tally {
    fn wants(&self) -> WaitWants {
        WaitWants { waits: self.waiters, wakings: !self.waiters, futexes_only: true }
    }

    fn scope(&self) -> Scope {
        Scope::Locks
    }

    fn take(&mut self, recorder: &mut Recorder, taken: &Taken<'_>) {
        match &taken.sample {
            WaitSample::Woke(woke) if !self.waiters => {
                if self.joining.len() >= MAX_JOINING {
                    self.give_up_joining();
                }
                self.joining.insert(woke.woken, (taken.thread, taken.stack, *woke));
            }
            WaitSample::Woke(_) => {}
            // What else it waits for is there for `block`.
            WaitSample::Waited(waited) if self.waiters => {
                if waited.wait.0 == 0 || waited.place.kind() != WaitKind::Futex {
                    return;
                }
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

    fn conclude(mut self: Box<Self>, heard: &Heard<'_>, notes: &mut Vec<String>) -> Contentions {
        self.give_up_joining();
        if self.waiters {
            for u in heard.waits.unfinished() {
                let waiter = Waiter { stack: Some(u.user), futex: u.waiting.place.futex };
                let labels = vec![("in_progress", "true")];
                let delay = u.waiting.now.saturating_sub(u.waiting.id.out);
                if u.waiting.place.kind() == WaitKind::Futex {
                    let key = Key { thread: u.thread, stack: u.stack, labels };
                    self.put(key, waiter, 1.0, delay);
                }
            }
        }
        let (block, mutex) = heard.waits.rates();
        notes.push(rate_note(if self.waiters { block } else { mutex }, heard.options));
        if self.waiters {
            notes.push("stacks are those of the waiting threads, not of the unlocking".into());
        }
        let (contentions, others, nameless) =
            self.locks_only(&heard.waits.reader.recorder, heard.named);
        if contentions.is_empty() {
            notes.push("no thread was seen waiting for a lock in this time".into());
        }
        if others > 0 {
            notes.push(format!("{others} samples of waits that are none for a lock were left out"));
        }
        if nameless.samples > 0 {
            notes.push(format!(
                "{} samples more ({:.1?} of waiting) are of code without names that calls futex(2) \
                 itself: whether it waits for locks, only the program's debug symbols can tell",
                nameless.samples,
                Duration::from_nanos(nameless.delay as u64)
            ));
        }
        contentions
    }
}

impl Tally {
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

    /// What was waited for locks, how many samples are left out as waits for anything else, and
    /// what of waits that nobody can tell.
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

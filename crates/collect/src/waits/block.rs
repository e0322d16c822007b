//! Makes the `block` profile: where threads wait, for any reason.
//!
//! The values are Go's: contentions and nanoseconds of delay, sampled by Go's rule. The label
//! `wait` says what the thread waited for; `runnable` is the time after waking or preemption until
//! a CPU was free. A wait that has not ended when the recording ends counts up to that moment and
//! has the label `in_progress`.

use std::time::Duration;

use aggregate::ids::{ROOT, ThreadIndex};
use aggregate::recorder::Recorder;
use events::{WaitKind, WaitSample, WaitWants, Waited};

use super::by_bpf::{NO_STACK, StackSample, rate_note};
use super::contentions::{Contentions, Key, Sum};
use super::fallback;
use super::shared::{FinishedWaits, Scope, WaitProfile};
use crate::collector::{Collector, Request};
use crate::outcome::RecordError;

/// Attaches to the targets.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    fallback::by_programs_or_perf(request, Box::new(Block::default()))
}

#[derive(Default)]
struct Block {
    contentions: Contentions,
    /// How long threads were stopped, in nanoseconds.
    stopped: u64,
}

impl WaitProfile for Block {
    fn wants(&self) -> WaitWants {
        WaitWants { waits: true, wakings: false, futexes_only: false }
    }

    fn scope(&self) -> Scope {
        Scope::All
    }

    fn add_sample(&mut self, recorder: &mut Recorder, sampled: &StackSample<'_>) {
        let WaitSample::Waited(waited) = &sampled.sample else { return };
        let stack = recorder.kernel_stack(sampled.stack, waited.kernel.iter());
        let mut put = |kind: WaitKind, sum: Sum| {
            let labels = vec![("wait", kind.name())];
            self.contentions.add(Key { thread: sampled.thread, stack, labels }, sum);
        };
        let (waited_ns, waits) = waited.wait;
        if waited.place.kind() == WaitKind::Stopped {
            self.stopped += waited_ns;
        }
        put(waited.place.kind(), Sum::of_sample(waits.get(), waited_ns));
        // Waiting for a CPU is not a contention, and only a sample if the record has no other wait.
        let samples = u64::from(waited_ns == 0);
        put(WaitKind::Runnable, Sum { samples, ..Sum::of_sample(0.0, waited.run) });
        add_lost(&mut self.contentions, recorder, sampled.thread, waited);
    }

    fn conclude(
        mut self: Box<Self>,
        recorded: &FinishedWaits<'_>,
        notes: &mut Vec<String>,
    ) -> Contentions {
        for u in recorded.waits.unfinished() {
            let kind = u.waiting.place.kind().name();
            let labels = vec![("wait", kind), ("in_progress", "true")];
            let delay = u.waiting.now.saturating_sub(u.waiting.id.out);
            let key = Key { thread: u.thread, stack: u.stack, labels };
            self.contentions.add(key, Sum::of_sample(1.0, delay));
        }
        notes.push(rate_note(recorded.waits.rates().0, recorded.options));
        if self.stopped > 0 {
            notes.push(format!(
                "{:.1?} of the delay is from threads that were stopped (wait=stopped): by job \
                 control, a debugger, or another kind of this recording, such as wall",
                Duration::from_nanos(self.stopped)
            ));
        }
        self.contentions
    }
}

/// Adds the waits whose stacks could not be taken because the thread had left that place.
fn add_lost(
    contentions: &mut Contentions,
    recorder: &mut Recorder,
    thread: ThreadIndex,
    waited: &Waited<'_>,
) {
    if waited.lost.0 > 0 {
        let stack = recorder.marker(ROOT, NO_STACK.into());
        let labels = vec![("wait", WaitKind::Other.name())];
        let (ns, waits) = waited.lost;
        contentions.add(Key { thread, stack, labels }, Sum::of_sample(waits.get(), ns));
    }
}

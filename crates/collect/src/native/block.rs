//! `block`: where threads wait, for whatever it is.
//!
//! Values are Go's: contentions and nanoseconds of delay, sampled by Go's rule. The label `wait`
//! says what was waited for; `runnable` is the time after waking, or after preemption, until a
//! CPU was free. Waits that had not ended when the recording did count as far as they went, and
//! have the label `in_progress`.

use events::{WaitKind, WaitSample, Waited};
use target::Root;

use super::contentions::{self, Contentions, Key, Sum};
use super::fallback::{self, Scope};
use super::waits::{NO_STACK, Taken, Waits, rate_note};
use crate::conclude;
use crate::recorder::Recorder;
use crate::session::{Collector, Ended, Progress, RecordOptions, Request};
use crate::stacks::{ROOT, ThreadIndex};
use crate::symbols::TargetFiles;
use crate::{Outcome, RecordError};

/// Attaches to the targets.
pub(crate) fn prepare(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    fallback::or_by_perf(request, Scope::All, || by_bpf(request))
}

fn by_bpf(request: &Request<'_>) -> Result<Box<dyn Collector>, RecordError> {
    let files = TargetFiles(request.roots.iter().filter_map(|p| Root::of(p).ok()).collect());
    let waits = Waits::attach(request, true, false, false)?;
    let contentions = Contentions::default();
    Ok(Box::new(Block { waits, files, options: request.options.clone(), contentions }))
}

struct Block {
    waits: Waits,
    files: TargetFiles,
    options: RecordOptions,
    contentions: Contentions,
}

impl Collector for Block {
    fn begin(&mut self) -> Result<(), RecordError> {
        self.waits.begin()
    }

    fn poll(&mut self) -> Progress {
        let contentions = &mut self.contentions;
        self.waits.poll(&mut |recorder, taken| add(contentions, recorder, taken))
    }

    fn someone_lives(&mut self) -> bool {
        self.waits.someone_lives()
    }

    fn end(&mut self) {
        let contentions = &mut self.contentions;
        self.waits.end(&mut |recorder, taken| add(contentions, recorder, taken));
    }

    fn finish(mut self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError> {
        let contentions = &mut self.contentions;
        self.waits.finish(&mut |recorder, taken| add(contentions, recorder, taken));
        for u in self.waits.unfinished() {
            let kind = u.waiting.place.kind().name();
            let labels = vec![("wait", kind), ("in_progress", "true")];
            let delay = u.waiting.now.saturating_sub(u.waiting.id.out);
            let key = Key { thread: u.thread, stack: u.stack, labels };
            contentions.add(key, Sum::of_sample(1.0, delay));
            self.waits.recorder.stats.kept += 1;
        }
        let named = conclude::name(&mut self.waits.recorder, &self.waits.roots, &self.files);
        let mut stats = self.waits.stats();
        stats.notes.push(rate_note(self.waits.rates().0, &self.options));
        let profile = contentions::conclude(
            self.contentions,
            (&self.waits.recorder, &named),
            (&self.waits.roots, &self.options),
            self.waits.time,
            &mut stats,
        )?;
        Ok(Outcome { profile, stats, ended })
    }
}

fn add(contentions: &mut Contentions, recorder: &mut Recorder, taken: &Taken<'_>) {
    let WaitSample::Waited(waited) = &taken.sample else { return };
    recorder.stats.kept += 1;
    let stack = recorder.kernel_stack(taken.stack, waited.kernel.iter());
    let mut put = |kind: WaitKind, sum: Sum| {
        let labels = vec![("wait", kind.name())];
        contentions.add(Key { thread: taken.thread, stack, labels }, sum);
    };
    let (waited_ns, waits) = waited.wait;
    put(waited.place.kind(), Sum::of_sample(waits.get(), waited_ns));
    // To wait for a CPU is no contention of its own, nor mostly a sample of its own.
    let samples = u64::from(waited_ns == 0);
    put(WaitKind::Runnable, Sum { samples, ..Sum::of_sample(0.0, waited.run) });
    add_lost(contentions, recorder, taken.thread, waited);
}

/// What was sampled at a place that the thread had left before its stack could be taken.
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

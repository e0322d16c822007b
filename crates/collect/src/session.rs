//! Runs a recording session: one or more kinds of profiles of the same processes at the same time.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregate::clock::monotonic_now;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use process::Process;

use crate::collector::{Collector, Progress, Request, Watcher};
use crate::kinds::Kind;
use crate::outcome::{Ended, KindOutcome, RecordError};

/// How often collectors are polled.
const READ_INTERVAL: Duration = Duration::from_millis(20);

/// Records several kinds at the same time. The outcomes are in the order of `kinds`. If one kind
/// fails, the others continue.
pub fn record(
    kinds: &[&Kind],
    request: &Request<'_>,
    watcher: &mut dyn Watcher,
) -> Vec<KindOutcome> {
    // If the target uses every CPU, we would otherwise read its counters seconds apart, and the
    // rings too late. Recording is little work; after its end we continue at normal priority.
    let ahead = host::RealtimePriority::raise();
    let attaching = Instant::now();
    // Where an error occurs: later, all targets may have exited for reasons of their own.
    let exited = |e: RecordError| e.after_exit(request.roots);
    let mut running: Vec<Result<Box<dyn Collector>, RecordError>> =
        kinds.iter().map(|k| (k.prepare)(request).map_err(exited)).collect();
    for slot in &mut running {
        let Ok(collector) = slot else { continue };
        if let Err(e) = collector.begin() {
            *slot = Err(exited(e));
        }
    }
    let ended = if running.iter().any(Result::is_ok) {
        tracing::info!(took = ?attaching.elapsed(), "attached, recording started");
        watcher.attached();
        listen(&mut running, request, watcher)
    } else {
        Ended::Stopped
    };
    for collector in running.iter_mut().flatten() {
        collector.end();
    }
    drop(ahead);
    tracing::info!(?ended, "recording ended");
    let finish = |(kind, slot): (&&Kind, Result<Box<dyn Collector>, RecordError>)| {
        let finishing = Instant::now();
        let outcome = slot.and_then(|c| c.finish(ended).map_err(exited));
        let took = finishing.elapsed();
        match &outcome {
            Ok(o) => tracing::info!(
                kind = kind.name(),
                backend = o.stats.backend,
                samples = o.stats.samples.kept,
                lost = o.stats.lost,
                ?took,
                "profile built"
            ),
            Err(error) => tracing::info!(kind = kind.name(), %error, "no profile"),
        }
        outcome
    };
    kinds.iter().zip(running).map(finish).collect()
}

fn listen(
    running: &mut [Result<Box<dyn Collector>, RecordError>],
    request: &Request<'_>,
    watcher: &mut dyn Watcher,
) -> Ended {
    let begin = monotonic_now();
    let duration = request.options.duration;
    loop {
        let mut collectors = running.iter().flatten();
        let elapsed = Duration::from_nanos(monotonic_now() - begin);
        if elapsed >= duration || collectors.all(|c| c.is_complete()) {
            return Ended::Duration;
        }
        match wait(request.roots, READ_INTERVAL.min(duration - elapsed), watcher.stop()) {
            Some(Ended::TargetsExited) if running.iter_mut().flatten().any(|c| c.any_alive()) => {}
            Some(ended) => return ended,
            None => {}
        }
        let mut sum = Progress::default();
        for collector in running.iter_mut().flatten() {
            let p = collector.poll();
            sum.samples += p.samples;
            sum.lost += p.lost;
        }
        sum.elapsed = Duration::from_nanos(monotonic_now() - begin);
        watcher.progress(sum);
    }
}

/// Waits until the next poll. Returns early, and why, if the recording ends before.
fn wait(roots: &[Arc<Process>], timeout: Duration, stop: Option<BorrowedFd<'_>>) -> Option<Ended> {
    let alive: Vec<_> = roots.iter().filter(|p| p.is_alive()).collect();
    let mut fds: Vec<PollFd<'_>> =
        stop.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let watched = fds.len();
    fds.extend(alive.iter().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)));
    let timeout =
        PollTimeout::try_from(timeout.max(Duration::from_millis(1))).unwrap_or(PollTimeout::ZERO);
    // If a signal interrupts the wait, we only poll earlier.
    let _ = poll(&mut fds, timeout);
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    if fds[..watched].iter().any(ready) {
        return Some(Ended::Stopped);
    }
    let exited = fds[watched..].iter().filter(|fd| ready(fd)).count();
    (exited == alive.len()).then_some(Ended::TargetsExited)
}

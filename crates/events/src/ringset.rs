//! Reads the rings of all CPUs as one stream in time order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::record::{self, Event, EventKind, Layout};
use crate::ring::Ring;

/// What was lost, as the kernel reported it in the rings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Records for which a ring had no space (PERF_RECORD_LOST).
    pub lost: u64,
    /// Times the kernel paused a CPU's samples (PERF_RECORD_THROTTLE).
    pub throttled: u64,
    /// Records that could not be parsed.
    pub malformed: u64,
}

/// One ring per CPU.
pub struct RingSet {
    rings: Vec<Ring>,
    layout: Layout,
    losses: Losses,
    ready: BinaryHeap<Reverse<(u64, usize)>>,
}

impl RingSet {
    pub(crate) fn new(rings: Vec<Ring>, layout: Layout) -> Self {
        Self { rings, layout, losses: Losses::default(), ready: BinaryHeap::new() }
    }

    pub(crate) fn set_stack_bytes(&mut self, bytes: u32) {
        self.layout.stack_bytes = self.layout.stack_bytes.max(bytes);
    }

    /// The losses reported so far.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// Passes on every record that was written before `until` (CLOCK_MONOTONIC, nanoseconds), in
    /// the order of their times over all CPUs, and frees their space.
    ///
    /// Records of different CPUs become visible out of order. Those before `until` are surely
    /// visible if `until` is a little before the call. Later ones stay in the ring for the next
    /// call, so that a mapping is always seen before the samples in it. `u64::MAX` takes
    /// everything, for when the events are disabled.
    pub fn drain(&mut self, until: u64, mut sink: impl FnMut(&Event<'_>)) {
        let mut ready = std::mem::take(&mut self.ready);
        for i in 0..self.rings.len() {
            self.rings[i].refresh();
            if let Some(time) = self.next_time(i) {
                ready.push(Reverse((time, i)));
            }
        }
        while let Some(Reverse((time, i))) = ready.pop() {
            if time >= until {
                break;
            }
            self.take(i, &mut sink);
            if let Some(time) = self.next_time(i) {
                ready.push(Reverse((time, i)));
            }
        }
        ready.clear();
        self.ready = ready;
        for ring in &mut self.rings {
            ring.release();
        }
    }

    /// The time of a ring's next record, after skipping malformed ones.
    fn next_time(&mut self, i: usize) -> Option<u64> {
        let ring = &mut self.rings[i];
        loop {
            let raw = ring.peek()?;
            if let Some(time) = record::time_of(self.layout, raw.kind, raw.body) {
                ring.prefetch();
                return Some(time);
            }
            let len = raw.body.len();
            ring.advance(len);
            self.losses.malformed += 1;
        }
    }

    fn take(&mut self, i: usize, sink: &mut impl FnMut(&Event<'_>)) {
        let ring = &mut self.rings[i];
        let Some(raw) = ring.peek() else { return };
        let len = raw.body.len();
        match record::parse(self.layout, raw.kind, raw.misc, raw.body) {
            Some(event) => {
                match event.kind {
                    EventKind::Lost { count } => self.losses.lost += count,
                    EventKind::Throttle => self.losses.throttled += 1,
                    _ => {}
                }
                sink(&event);
            }
            None => self.losses.malformed += 1,
        }
        ring.advance(len);
        // A busy CPU's ring must not stay full during a long drain.
        ring.release();
    }
}

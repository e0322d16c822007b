//! From the return addresses of a record to the functions of the source.

use std::collections::HashMap;
use std::rc::Rc;

use image::Avma;

use crate::{LogicalFrame, Runtime};

/// How many frames are kept: more than the addresses of a program's records have, other than in one
/// that makes them up.
const MOST_KEPT: usize = 1 << 16;
/// More calls than any compiler inlines into one place.
const MOST_INLINED: usize = 512;

/// Names the stacks of many records. They share most of their addresses, and each is looked up in
/// the line table once.
pub struct RecordedStacks<'a> {
    runtime: &'a Runtime,
    /// By return address, the frames at the call.
    calls: HashMap<Avma, Rc<[LogicalFrame<'a>]>>,
    kept: usize,
    /// By return address, whether the function that has it belongs to the runtime.
    own: HashMap<Avma, bool>,
}

impl<'a> RecordedStacks<'a> {
    /// Of a program that has this runtime.
    #[must_use]
    pub fn new(runtime: &'a Runtime) -> Self {
        Self { runtime, calls: HashMap::new(), kept: 0, own: HashMap::new() }
    }

    /// The functions of a recorded stack of return addresses, such as those of the heap and
    /// block profiles: what `runtime.CallersFrames` makes of it.
    ///
    /// Records of Go before 1.23 list inlined calls one by one, later block and mutex records
    /// list them as one address: an inlined frame whose caller does not follow is given its
    /// callers here. Addresses outside the Go code are skipped, among them the marker ^0 of the
    /// lock records of Go 1.23 and 1.24.
    #[must_use]
    pub fn frames(&mut self, callers: &[Avma]) -> Vec<LogicalFrame<'a>> {
        let mut frames = Vec::with_capacity(callers.len());
        for (i, caller) in callers.iter().enumerate() {
            let next = callers.get(i + 1).copied();
            let mut pc = Some(*caller);
            // Each step leads to an outer call, unless the table of inlined calls goes in circles.
            for _ in 0..MOST_INLINED {
                let Some(at) = pc.take() else { break };
                let chain = self.call(at);
                let Some((first, outer)) = chain.split_first() else { break };
                if first.inlined {
                    pc = self.caller_to_add(outer, first.id, next);
                }
                frames.push(LogicalFrame { physical: i, ..first.clone() });
            }
        }
        frames
    }

    /// The frames of a heap record: leading ones of the runtime are hidden, unless there is nothing
    /// else.
    ///
    /// Which those are is told by the function at each *return* address, as `writeHeapProto` in
    /// Go's runtime/pprof has it: that may be another one, where an inlined call is the last
    /// instruction of its function.
    #[must_use]
    pub fn heap_frames(&mut self, callers: &[Avma]) -> Vec<LogicalFrame<'a>> {
        let first = callers.iter().position(|pc| !self.is_own(*pc)).unwrap_or(0);
        let shown =
            |frames: &[LogicalFrame<'_>]| frames.iter().any(|f| f.function != "runtime.goexit");
        let frames = self.frames(callers.get(first..).unwrap_or_default());
        if shown(&frames) { frames } else { self.frames(callers) }
    }

    fn is_own(&mut self, pc: Avma) -> bool {
        let runtime = self.runtime;
        let look = || runtime.frames_at(pc).first().is_some_and(|f| runtime.is_runtime(f));
        if self.own.len() >= MOST_KEPT {
            self.own.clear();
        }
        *self.own.entry(pc).or_insert_with(look)
    }

    /// The frames at the call that returns to an address; none for code that is not Go's.
    fn call(&mut self, caller: Avma) -> Rc<[LogicalFrame<'a>]> {
        let runtime = self.runtime;
        let look = || {
            let pc = runtime.bias.to_svma(caller);
            let Some(f) = runtime.table.function_at(pc) else { return Rc::default() };
            let call = if pc > f.entry() { pc.wrapping_sub(1) } else { pc };
            f.frames(call).map(|frame| runtime.logical(frame, 0)).collect()
        };
        if let Some(known) = self.calls.get(&caller) {
            return known.clone();
        }
        let frames: Rc<[LogicalFrame<'a>]> = look();
        self.kept += 1 + frames.len();
        if self.kept > MOST_KEPT {
            self.kept = 0;
            self.calls.clear();
        }
        self.calls.insert(caller, frames.clone());
        frames
    }

    /// The return address of the next outer frame, unless the record itself goes on with it. The
    /// last address of a record stands alone, as `Frames.Next` in runtime/symtab.go has it.
    fn caller_to_add(
        &self,
        outer: &[LogicalFrame<'_>],
        callee: u8,
        next: Option<Avma>,
    ) -> Option<Avma> {
        let next = next?;
        for frame in outer {
            let return_address = frame.pc.wrapping_add(1);
            if return_address == next {
                return None;
            }
            if !self.runtime.table.special().is_elided(frame.id, callee) {
                return Some(return_address);
            }
        }
        None
    }
}

impl Runtime {
    /// The functions of one recorded stack: see [`RecordedStacks::frames`].
    #[must_use]
    pub fn recorded_frames(&self, callers: &[Avma]) -> Vec<LogicalFrame<'_>> {
        RecordedStacks::new(self).frames(callers)
    }
}

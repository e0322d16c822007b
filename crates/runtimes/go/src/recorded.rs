//! Names the return addresses of profile records.

use std::collections::HashMap;
use std::rc::Rc;

use image::Avma;

use crate::{LogicalFrame, Runtime};

/// Frames in the cache: more than the records of a program have, unless it is hostile.
const MAX_CACHED: usize = 1 << 16;
/// More calls than any compiler inlines at one address.
const MAX_INLINED: usize = 512;

/// Names the stacks of many records. They share most of their addresses, so each address is looked
/// up in the line table only once.
pub struct RecordedStacks<'a> {
    runtime: &'a Runtime,
    /// The frames at the call, by return address.
    calls: HashMap<Avma, Rc<[LogicalFrame<'a>]>>,
    cached: usize,
    /// Whether the function at a return address belongs to the runtime.
    in_runtime: HashMap<Avma, bool>,
}

impl<'a> RecordedStacks<'a> {
    /// Creates an empty cache for the program of `runtime`.
    #[must_use]
    pub fn new(runtime: &'a Runtime) -> Self {
        Self { runtime, calls: HashMap::new(), cached: 0, in_runtime: HashMap::new() }
    }

    /// The functions of a record's return addresses, innermost first, as `runtime.CallersFrames`
    /// returns them.
    ///
    /// Before Go 1.23 records list inlined calls one by one; later block and mutex records list
    /// them as one address. So if the caller of an inlined frame does not follow in the record, it
    /// is added here. Addresses outside Go code are skipped, such as the marker ^0 in lock records
    /// of Go 1.23 and 1.24.
    #[must_use]
    pub fn frames(&mut self, callers: &[Avma]) -> Vec<LogicalFrame<'a>> {
        let mut frames = Vec::with_capacity(callers.len());
        for (i, caller) in callers.iter().enumerate() {
            let next = callers.get(i + 1).copied();
            let mut pc = Some(*caller);
            // Each step leads to an outer call, unless the inline tree of a hostile file is cyclic.
            for _ in 0..MAX_INLINED {
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

    /// The frames of a heap record, without leading frames of the runtime unless there are no
    /// others.
    ///
    /// Like `writeHeapProto` in Go's runtime/pprof, this checks the function at each *return*
    /// address. It differs from the caller if an inlined call is the last instruction of its
    /// function.
    #[must_use]
    pub fn heap_frames(&mut self, callers: &[Avma]) -> Vec<LogicalFrame<'a>> {
        let first = callers.iter().position(|pc| !self.is_in_runtime(*pc)).unwrap_or(0);
        let shown =
            |frames: &[LogicalFrame<'_>]| frames.iter().any(|f| f.function != "runtime.goexit");
        let frames = self.frames(callers.get(first..).unwrap_or_default());
        if shown(&frames) { frames } else { self.frames(callers) }
    }

    fn is_in_runtime(&mut self, pc: Avma) -> bool {
        let runtime = self.runtime;
        let look = || runtime.frames_at(pc).first().is_some_and(|f| runtime.is_runtime(f));
        if self.in_runtime.len() >= MAX_CACHED {
            self.in_runtime.clear();
        }
        *self.in_runtime.entry(pc).or_insert_with(look)
    }

    /// The frames at the call that returns to `caller`. Empty if that is not in Go code.
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
        self.cached += 1 + frames.len();
        if self.cached > MAX_CACHED {
            self.cached = 0;
            self.calls.clear();
        }
        self.calls.insert(caller, frames.clone());
        frames
    }

    /// The return address of the next outer frame, unless the record continues with it. Like
    /// `Frames.Next` in runtime/symtab.go, adds nothing after the last address of a record.
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
    /// Names one recorded stack: see [`RecordedStacks::frames`].
    #[must_use]
    pub fn recorded_frames(&self, callers: &[Avma]) -> Vec<LogicalFrame<'_>> {
        RecordedStacks::new(self).frames(callers)
    }
}

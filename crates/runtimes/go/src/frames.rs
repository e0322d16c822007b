//! Names the source functions at an address or on a stack.

use std::borrow::Cow;

use gopclntab::Frame;
use image::Avma;

use crate::{Runtime, Stack};

/// One source function on a stack. Several share an address where calls were inlined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalFrame<'a> {
    /// The full name, including type arguments: see [`gopclntab::printed_name`].
    pub function: Cow<'a, str>,
    /// File and line.
    pub position: Option<(Cow<'a, str>, u32)>,
    /// The line of the `func` keyword. `None` before Go 1.20.
    pub start_line: Option<u32>,
    /// The executing instruction, or the call: never a return address.
    pub pc: Avma,
    /// The entry of the function that contains the code.
    pub entry: Avma,
    /// Whether the function is inlined into the next frame's function.
    pub inlined: bool,
    pub(crate) id: u8,
    /// Index of the frame in [`Stack::frames`], or of the address in a recorded stack.
    pub physical: usize,
}

impl<'a> LogicalFrame<'a> {
    /// Groups the frames that share an address: inlined calls with the function that contains the
    /// code. Each group is one pprof location with one line per frame. As in Go's own profiles, its
    /// address is that of the first frame.
    pub fn locations(frames: &[Self]) -> impl Iterator<Item = &[Self]> {
        frames.chunk_by(|a, b| a.inlined && a.entry == b.entry)
    }
}

impl Runtime {
    /// The frames per stack, including inlined ones, that Go's own goroutine, heap, block and mutex
    /// profiles keep by default: 32 before Go 1.23, 128 since. `GODEBUG=profstackdepth` changes it.
    #[must_use]
    pub fn profile_depth(&self) -> usize {
        if self.layout.minor >= 23 { 128 } else { 32 }
    }

    /// Removes leading frames of the runtime unless there are no others, as Go's heap profile and
    /// `debug=1` texts do. Since Go 1.24 `internal/runtime/…` belongs to the runtime too.
    #[must_use]
    pub fn without_runtime<'f, 'a>(
        &self,
        frames: &'f [LogicalFrame<'a>],
    ) -> &'f [LogicalFrame<'a>] {
        let first = frames.iter().position(|f| !self.is_runtime(f)).unwrap_or(0);
        frames.get(first..).unwrap_or_default()
    }

    pub(crate) fn is_runtime(&self, f: &LogicalFrame<'_>) -> bool {
        let internal = self.layout.minor >= 24;
        f.function.starts_with("runtime.")
            || (internal && f.function.starts_with("internal/runtime/"))
    }

    pub(crate) fn logical<'a>(&'a self, frame: Frame<'a>, physical: usize) -> LogicalFrame<'a> {
        LogicalFrame {
            function: frame.function,
            position: frame.position,
            start_line: frame.start_line,
            pc: self.bias.to_avma(frame.pc),
            entry: self.bias.to_avma(frame.entry),
            inlined: frame.inlined,
            id: frame.id,
            physical,
        }
    }

    /// The frames at one instruction, innermost first, including wrappers. Empty if `pc` is not in
    /// Go code.
    #[must_use]
    pub fn frames_at(&self, pc: Avma) -> Vec<LogicalFrame<'_>> {
        let pc = self.bias.to_svma(pc);
        let Some(f) = self.table.function_at(pc) else { return Vec::new() };
        f.frames(pc).map(|frame| self.logical(frame, 0)).collect()
    }

    /// The functions on a stack as in Go's own profiles, innermost first: with inlined calls,
    /// without generated wrappers (`tracebackPCs` in runtime/traceback.go).
    #[must_use]
    pub fn logical_frames(&self, stack: &Stack) -> Vec<LogicalFrame<'_>> {
        let (mut frames, mut callee) = (Vec::new(), 0);
        for (i, physical) in stack.frames.iter().enumerate() {
            let pc = self.bias.to_svma(physical.call_pc());
            let Some(f) = self.table.function_at(pc) else { continue };
            for frame in f.frames(pc) {
                let id = frame.id;
                if !self.table.special().is_elided(id, callee) {
                    frames.push(self.logical(frame, i));
                }
                callee = id;
            }
        }
        frames
    }
}

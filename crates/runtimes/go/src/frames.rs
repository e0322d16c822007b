//! From addresses to the functions of the source.

use std::borrow::Cow;

use gopclntab::Frame;
use image::Avma;

use crate::{Runtime, Stack};

/// One function of the source on a stack; several share an address where calls were inlined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalFrame<'a> {
    /// The full name, type arguments included; see [`gopclntab::printed_name`]. Empty for
    /// code that is not Go's.
    pub function: Cow<'a, str>,
    /// File and line.
    pub position: Option<(Cow<'a, str>, u32)>,
    /// The line of the `func` keyword; `None` before Go 1.20.
    pub start_line: Option<u32>,
    /// The instruction that is executed, or that of the call: never a return address.
    pub pc: Avma,
    /// The entry of the function that has the code.
    pub entry: Avma,
    /// The function has no code of its own here: it shares the next frame's.
    pub inlined: bool,
    pub(crate) id: u8,
    /// Which frame of the [`Stack`] it belongs to.
    pub physical: usize,
}

impl<'a> LogicalFrame<'a> {
    /// Cuts a stack into what shares one address each: an inlined chain with the function that
    /// has the code. A pprof location is such a piece, one line per frame; its address is that
    /// of the first frame, as Go's own profiles have it.
    pub fn locations(frames: &[Self]) -> impl Iterator<Item = &[Self]> {
        frames.chunk_by(|a, b| a.inlined && a.entry == b.entry)
    }
}

impl Runtime {
    /// How many frames Go's own goroutine, heap, block and mutex profiles keep of a stack, inlined
    /// ones included: 32, and 128 since 1.23 (unless GODEBUG=profstackdepth says otherwise).
    #[must_use]
    pub fn profile_depth(&self) -> usize {
        if self.layout.minor >= 23 { 128 } else { 32 }
    }

    /// The frames that Go's heap profile and `debug=1` texts show: without the leading ones of the
    /// runtime itself, unless there is nothing else. (`internal/runtime/…` counts as runtime
    /// since 1.24.)
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

    /// The frames at one instruction, innermost first; none for code that is not Go's. Wrappers
    /// are included.
    #[must_use]
    pub fn frames_at(&self, pc: Avma) -> Vec<LogicalFrame<'_>> {
        let pc = self.bias.to_svma(pc);
        let Some(f) = self.table.function_at(pc) else { return Vec::new() };
        f.frames(pc).map(|frame| self.logical(frame, 0)).collect()
    }

    /// The functions on a stack as Go's own profiles have them: inlined calls made visible,
    /// generated wrappers left out (`tracebackPCs` in runtime/traceback.go).
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

//! Inlined calls: from one address to the chain of functions that the programmer wrote.

use std::borrow::Cow;

use image::Svma;

use crate::header::u32_at;
use crate::{Bytes, Format, Function, LineTable};

/// The compiler's budget keeps real chains below a few dozen.
const MAX_DEPTH: usize = 512;

/// One function of the source at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The full name, type arguments included: see [`crate::printed_name`].
    pub function: Cow<'a, str>,
    /// The file and the line that are executed, or of the inlined call.
    pub position: Option<(Cow<'a, str>, u32)>,
    /// The line of the `func` keyword; `None` before Go 1.20.
    pub start_line: Option<u32>,
    /// The instruction whose position this is: for the innermost frame the one that was asked
    /// about, for the others that of the inlined call. Go's own profiles record it plus one.
    pub pc: Svma,
    /// The entry of the function that has the code.
    pub entry: Svma,
    /// `funcID` of this function, not of the one that has the code.
    pub id: u8,
    /// The function has no code of its own here.
    pub inlined: bool,
}

/// The frames at one address, innermost first; the last is the function that has the code.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    function: Function<'a>,
    next: Option<Svma>,
    left: usize,
}

impl<'a> Function<'a> {
    /// The frames at `pc`, an instruction that is executed: of a return address, the one before.
    #[must_use]
    pub fn frames(&self, pc: Svma) -> Frames<'a> {
        Frames { function: *self, next: Some(pc), left: MAX_DEPTH }
    }

    /// What FUNCDATA table `index` points to, to the end of all such data: the tables have no
    /// length of their own. `None` before Go 1.18, and where `gofunc` was not found.
    #[must_use]
    pub fn funcdata_bytes(&self, index: usize) -> Option<&'a [u8]> {
        let all = self.table.gofunc.as_ref().map(Bytes::get)?;
        all.get(self.funcdata(index)? as usize..)
    }

    /// The bytes of entry `index` of its inline tree.
    fn inlined_call(&self, index: usize) -> Option<&'a [u8]> {
        let tree = self.inline_tree_offset()? as usize;
        let size = if self.table.header.format == Format::Go120 { 16 } else { 20 };
        let all = self.table.gofunc.as_ref().map(Bytes::get)?;
        let at = tree.checked_add(index.checked_mul(size)?)?;
        all.get(at..at.checked_add(size)?)
    }

    /// `runtime.inlinedCall` in Go's runtime/symtabinl.go, and before 1.20 in symtab.go:
    ///
    /// ```text
    /// 1.20+:  0 funcID u8          4 nameOff    8 parentPc     12 startLine   (16 bytes)
    /// before: 0 parent i16  2 funcID u8  4 file  8 line  12 func  16 parentPc (20 bytes)
    /// ```
    fn inlined_at(&self, pc: Svma) -> Option<Inlined> {
        let call = self.inlined_call(self.inline_index(pc)?)?;
        let word = |at| u32_at(call, at);
        let (id, name, parent, start_line) = match self.table.header.format {
            Format::Go120 => (call[0], word(4)?, word(8)?, word(12)),
            _ => (call[2], word(12)?, word(16)?, None),
        };
        let parent = self.entry().checked_add(u64::from(parent)).filter(|p| *p < self.end())?;
        Some(Inlined { id, name, parent, start_line })
    }
}

struct Inlined {
    id: u8,
    name: u32,
    parent: Svma,
    start_line: Option<u32>,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let pc = self.next.take()?;
        let f = self.function;
        self.left = self.left.checked_sub(1)?;
        let (position, entry) = (f.position(pc), f.entry());
        match f.inlined_at(pc) {
            Some(call) => {
                self.next = Some(call.parent);
                let function = f.table.name_at(call.name);
                let start_line = call.start_line.filter(|l| *l != 0 && *l <= i32::MAX as u32);
                Some(Frame {
                    function,
                    position,
                    start_line,
                    pc,
                    entry,
                    id: call.id,
                    inlined: true,
                })
            }
            None => Some(Frame {
                function: f.name(),
                position,
                start_line: f.start_line(),
                pc,
                entry,
                id: f.id(),
                inlined: false,
            }),
        }
    }
}

/// The ids (`funcID`) of functions that the runtime and its tracebacks treat differently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialFunctions {
    /// Generated code that only calls the function that was meant: method wrappers, hash and
    /// equality functions. It is the highest id in every version.
    pub wrapper: Option<u8>,
    /// `runtime.gopanic`.
    pub gopanic: Option<u8>,
    /// `runtime.sigpanic`: its caller was interrupted by a fault, not by a call.
    pub sigpanic: Option<u8>,
    /// `runtime.panicwrap`.
    pub panicwrap: Option<u8>,
    /// `runtime.asyncPreempt`: its caller was interrupted by a signal.
    pub async_preempt: Option<u8>,
    /// `runtime.debugCallV2`.
    pub debug_call: Option<u8>,
    /// `runtime.cgocallback`: writes SP, but can be unwound through.
    pub cgocallback: Option<u8>,
    /// `runtime.main`, a goroutine of the user.
    pub runtime_main: Option<u8>,
    /// `runtime.corostart`, a goroutine of the user (1.23+).
    pub corostart: Option<u8>,
    /// `runtime.handleAsyncEvent` (wasm).
    pub handle_async_event: Option<u8>,
    /// `runtime.runfinq`, `runtime.runFinalizers` from 1.25 on.
    pub finalizers: Option<u8>,
    /// `runtime.runCleanups` (1.25+).
    pub cleanups: Option<u8>,
}

impl SpecialFunctions {
    pub(crate) fn of(table: &LineTable) -> Self {
        let mut s = Self::default();
        for f in table.functions().filter(|f| f.id() != 0) {
            s.wrapper = s.wrapper.max(Some(f.id()));
            // Many functions are wrappers, few have another id.
            let slot = match &*f.name() {
                "runtime.gopanic" => &mut s.gopanic,
                "runtime.sigpanic" => &mut s.sigpanic,
                "runtime.panicwrap" => &mut s.panicwrap,
                "runtime.asyncPreempt" => &mut s.async_preempt,
                "runtime.debugCallV2" | "runtime.debugCallV1" => &mut s.debug_call,
                "runtime.cgocallback" => &mut s.cgocallback,
                "runtime.main" => &mut s.runtime_main,
                "runtime.corostart" => &mut s.corostart,
                "runtime.handleAsyncEvent" => &mut s.handle_async_event,
                "runtime.runfinq" | "runtime.runFinalizers" => &mut s.finalizers,
                "runtime.runCleanups" => &mut s.cleanups,
                _ => continue,
            };
            *slot = Some(f.id());
        }
        s
    }

    /// Whether a frame is left out of Go's stacks: a wrapper, unless what it called is a panic
    /// (`elideWrapperCalling` in runtime/traceback.go). `callee` is the id of the next inner
    /// frame, 0 for the innermost.
    #[must_use]
    pub fn is_elided(&self, id: u8, callee: u8) -> bool {
        let is = |which: Option<u8>, id| which == Some(id);
        let panics =
            is(self.gopanic, callee) || is(self.sigpanic, callee) || is(self.panicwrap, callee);
        is(self.wrapper, id) && !panics
    }

    /// Whether the caller of such a function was interrupted rather than calling, so that its
    /// pc is the instruction itself and no return address (`isInjectedCall`).
    #[must_use]
    pub fn is_injected_call(&self, id: u8) -> bool {
        id != 0 && [self.sigpanic, self.async_preempt, self.debug_call].contains(&Some(id))
    }
}

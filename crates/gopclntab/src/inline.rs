//! Expands an address into the chain of inlined calls that it belongs to.

use std::borrow::Cow;

use image::Svma;

use crate::header::u32_at;
use crate::{Bytes, Format, Function, LineTable};

/// Frames per address. The compiler's inlining budget keeps real chains below a few dozen.
const MAX_DEPTH: usize = 512;

/// One source function at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The full name, including type arguments: see [`crate::printed_name`].
    pub function: Cow<'a, str>,
    /// The file and line of the instruction at `pc`.
    pub position: Option<(Cow<'a, str>, u32)>,
    /// The line of the `func` keyword. `None` before Go 1.20.
    pub start_line: Option<u32>,
    /// The instruction that `position` describes: for the innermost frame the address that was
    /// looked up, for outer frames the inlined call. Go's own profiles record this plus one.
    pub pc: Svma,
    /// The entry of the function that contains the code.
    pub entry: Svma,
    /// `funcID` of this function, not of the one that contains the code.
    pub id: u8,
    /// Whether the function is inlined into the next frame's function.
    pub inlined: bool,
}

/// The frames at one address, innermost first. The last one is the function that contains the
/// code.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    function: Function<'a>,
    next: Option<Svma>,
    left: usize,
}

impl<'a> Function<'a> {
    /// The frames at the instruction `pc`. For a return address, pass the address minus one.
    #[must_use]
    pub fn frames(&self, pc: Svma) -> Frames<'a> {
        Frames { function: *self, next: Some(pc), left: MAX_DEPTH }
    }

    /// The bytes from the start of FUNCDATA table `index` to the end of all FUNCDATA: a table does
    /// not state its length. `None` before Go 1.18, or if `moduledata.gofunc` was not found.
    #[must_use]
    pub fn funcdata_bytes(&self, index: usize) -> Option<&'a [u8]> {
        let all = self.table.gofunc.as_ref().map(Bytes::get)?;
        all.get(self.funcdata(index)? as usize..)
    }

    /// The bytes of entry `index` of the function's inline tree.
    fn inlined_call(&self, index: usize) -> Option<&'a [u8]> {
        let tree = self.inline_tree_offset()? as usize;
        let size = if self.table.header.format == Format::Go120 { 16 } else { 20 };
        let all = self.table.gofunc.as_ref().map(Bytes::get)?;
        let at = tree.checked_add(index.checked_mul(size)?)?;
        all.get(at..at.checked_add(size)?)
    }

    /// Reads a `runtime.inlinedCall` (Go's runtime/symtabinl.go, before 1.20 symtab.go):
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

/// The ids (`funcID`) of functions that the runtime and its tracebacks treat specially. `None`
/// for functions that the program does not contain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialFunctions {
    /// Generated code that only calls another function: method wrappers, hash and equality
    /// functions. This is the highest id in every version.
    pub wrapper: Option<u8>,
    /// `runtime.gopanic`.
    pub gopanic: Option<u8>,
    /// `runtime.sigpanic`: a fault interrupted its caller, which did not call it.
    pub sigpanic: Option<u8>,
    /// `runtime.panicwrap`.
    pub panicwrap: Option<u8>,
    /// `runtime.asyncPreempt`: a signal interrupted its caller.
    pub async_preempt: Option<u8>,
    /// `runtime.debugCallV2`.
    pub debug_call: Option<u8>,
    /// `runtime.cgocallback`: writes SP, but can be unwound nevertheless.
    pub cgocallback: Option<u8>,
    /// `runtime.main`: starts a user goroutine.
    pub runtime_main: Option<u8>,
    /// `runtime.corostart` (1.23+): starts a user goroutine.
    pub corostart: Option<u8>,
    /// `runtime.handleAsyncEvent` (wasm).
    pub handle_async_event: Option<u8>,
    /// `runtime.runfinq`, renamed `runtime.runFinalizers` in 1.25.
    pub finalizers: Option<u8>,
    /// `runtime.runCleanups` (1.25+).
    pub cleanups: Option<u8>,
}

impl SpecialFunctions {
    pub(crate) fn of(table: &LineTable) -> Self {
        let mut s = Self::default();
        for f in table.functions().filter(|f| f.id() != 0) {
            s.wrapper = s.wrapper.max(Some(f.id()));
            // Several functions may share the id of a wrapper; the others are unique.
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

    /// Whether Go omits a frame from its stacks: a wrapper, unless it called a panic function
    /// (`elideWrapperCalling` in runtime/traceback.go). `callee` is the id of the next inner frame,
    /// 0 for the innermost.
    #[must_use]
    pub fn is_elided(&self, id: u8, callee: u8) -> bool {
        let panics = [self.gopanic, self.sigpanic, self.panicwrap].contains(&Some(callee));
        self.wrapper == Some(id) && !panics
    }

    /// Whether the caller of a function with this id was interrupted instead of calling it, so
    /// that the caller's pc is the interrupted instruction, not a return address
    /// (`isInjectedCall` in runtime/traceback.go).
    #[must_use]
    pub fn is_injected_call(&self, id: u8) -> bool {
        id != 0 && [self.sigpanic, self.async_preempt, self.debug_call].contains(&Some(id))
    }
}

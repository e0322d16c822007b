//! Formats the arguments of a call as Go's tracebacks do.

use std::fmt::Write as _;

use gopclntab::Function;
use image::Avma;

use crate::Runtime;
use crate::unwind::{PhysicalFrame, StackReader};

const FUNCDATA_ARG_INFO: usize = 5;
const FUNCDATA_ARG_LIVE_INFO: usize = 6;
const PCDATA_ARG_LIVE_INDEX: usize = 3;

/// Maximum size of an argument program, in bytes: more than `abi.TraceArgsMaxLen` (171 in Go 1.27).
const MAX_OPERATIONS: usize = 256;

// Operations of Go's internal/abi: TraceArgsEndSeq, TraceArgsStartAgg and so on.
const END: u8 = 0xff;
const START_AGGREGATE: u8 = 0xfe;
const END_AGGREGATE: u8 = 0xfd;
const DOTS: u8 = 0xfc;
const TOO_FAR: u8 = 0xfb;

/// Which argument slots still hold their argument.
struct Liveness<'a> {
    info: Option<&'a [u8]>,
    index: usize,
    start: u8,
}

impl Liveness<'_> {
    fn is_live(&self, offset: u8, slot: u8) -> bool {
        let Some(info) = self.info else { return true };
        if self.index == 0 || offset < self.start {
            return true;
        }
        let bits = info.get(self.index + usize::from(slot / 8)).copied().unwrap_or(0xff);
        bits & (1 << (slot % 8)) != 0
    }
}

impl Runtime {
    /// Runs a function's argument program: offsets and sizes, with a bitmap of the arguments that
    /// are live at this instruction (`printArgs` in Go's runtime/traceback.go). `None` if the
    /// function has no such program.
    pub(crate) fn arguments(
        &self,
        stack: &mut StackReader<'_>,
        f: &Function<'_>,
        frame: &PhysicalFrame,
    ) -> Option<Box<str>> {
        let program = f.funcdata_bytes(FUNCDATA_ARG_INFO)?;
        let mut pc = self.bias.to_svma(frame.call_pc());
        // Before 1.21 (gentraceback), the liveness at the outermost inlined call applies.
        if self.layout.minor < 21 {
            pc = f.frames(pc).last().map_or(pc, |outermost| outermost.pc);
        }
        let info = f.funcdata_bytes(FUNCDATA_ARG_LIVE_INFO);
        let index = f.pcdata(PCDATA_ARG_LIVE_INDEX, pc).map_or(0, |v| v.value);
        let start = info.and_then(|i| i.first().copied()).unwrap_or(0xff);
        let live = Liveness { info, index: usize::try_from(index).unwrap_or(0), start };
        let (mut text, mut first, mut slot) = (String::new(), true, 0u8);
        let mut operations = program.iter().take(MAX_OPERATIONS);
        while let Some(operation) = operations.next().copied().filter(|o| *o != END) {
            if operation != END_AGGREGATE && !first {
                text.push_str(", ");
            }
            first = operation == START_AGGREGATE;
            match operation {
                START_AGGREGATE => text.push('{'),
                END_AGGREGATE => text.push('}'),
                DOTS => text.push_str("..."),
                TOO_FAR => text.push('_'),
                offset => {
                    let size = u32::from(*operations.next()?).clamp(1, 8);
                    let word = stack.word(Avma(frame.cfa.0.wrapping_add(u64::from(offset))))?;
                    let value = word & (u64::MAX >> (64 - size * 8));
                    let _ = write!(text, "{value:#x}");
                    if !live.is_live(offset, slot) {
                        text.push('?');
                    }
                    slot = slot.wrapping_add(u8::from(offset >= live.start));
                }
            }
        }
        Some(text.into())
    }
}

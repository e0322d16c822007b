//! Finds the Python interpreter of a process and names its frames.

use std::sync::Arc;

use events::{ChainFrame, ChainLayout};
use image::{Avma, MappingKind};
use pyruntime::{Code, CodeReader, FindError, FrameStyle, Layout, Runtime};
use rustc_hash::FxHashMap;

use super::{NamedLine, Names, PythonIndex};
use crate::processes::Tracked;

/// Maximum number of cached code objects.
const MAX_CODES: usize = 65_536;
/// Maximum number of cached instruction addresses per code object.
const MAX_PLACES: usize = 8192;

pub(super) struct Program {
    runtime: Runtime,
    reader: CodeReader,
    codes: FxHashMap<u64, KnownCode>,
}

struct KnownCode {
    code: Arc<Code>,
    checked: u64,
    places: FxHashMap<u64, PythonIndex>,
}

/// Finds the interpreter of a process, if it has one.
pub(super) fn find(tracked: &Tracked) -> Result<Option<Runtime>, FindError> {
    let Some(memory) = &tracked.memory else { return Ok(None) };
    let mut seen = Vec::new();
    for mapping in tracked.space.iter().filter(|m| m.kind == MappingKind::File) {
        let Ok((image, bias)) = &mapping.image else { continue };
        let key = (Arc::as_ptr(image), *bias);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        if let Some(runtime) = Runtime::find(image, *bias, memory, &mapping.name)? {
            return Ok(Some(runtime));
        }
    }
    Ok(None)
}

impl Program {
    pub(super) fn new(runtime: Runtime) -> Self {
        let reader = runtime.code_reader();
        Self { runtime, reader, codes: FxHashMap::default() }
    }

    pub(super) fn style(&self) -> FrameStyle {
        self.runtime.layout().style
    }

    pub(super) fn evaluates(&self, at: Avma) -> bool {
        self.runtime.evaluates(at)
    }

    /// The layout that the BPF program needs to follow the chain of frames.
    pub(super) fn chain_layout(&self) -> ChainLayout {
        let l = self.runtime.layout();
        let field = |offset: u64| if Layout::has(offset) { offset as u32 } else { 0 };
        let through = if Layout::has(l.c_frame_current) { ChainLayout::THROUGH_C_FRAME } else { 0 };
        let anchored = match l.style {
            FrameStyle::EntryFlag => ChainLayout::ANCHORED_BY_C_FRAMES,
            _ => 0,
        };
        ChainLayout {
            head: self.runtime.address().0.wrapping_add(l.interpreters_head),
            thread_bias: 0,
            interpreter_next: field(l.interpreter_next),
            interpreter_threads: field(l.interpreter_threads),
            thread_next: field(l.thread_next),
            thread_id: field(l.thread_id),
            thread_frame: field(l.thread_frame),
            flags: through | anchored,
            c_frame_current: field(l.c_frame_current),
            c_frame_previous: field(l.c_frame_previous),
            frame_code: field(l.frame_code),
            frame_previous: field(l.frame_previous),
            frame_instruction: field(l.frame_instruction),
            frame_owner: field(l.frame_owner),
        }
    }

    /// The function and line of a frame; `None` if its code object is gone.
    pub(super) fn name(
        &mut self,
        frame: &ChainFrame,
        tracked: &Tracked,
        round: u64,
        names: &mut Names,
    ) -> Option<PythonIndex> {
        let at = frame.code & !self.runtime.layout().code_tag_mask();
        let known = self.code(at, tracked, round)?;
        if let Some(index) = known.places.get(&frame.instruction) {
            return Some(*index);
        }
        let code = &known.code;
        let index = names.index_of(NamedLine {
            name: code.name.clone(),
            file: Some(code.file.clone()),
            first_line: code.first_line,
            line: code.line(frame.instruction).unwrap_or(0),
        });
        if known.places.len() >= MAX_PLACES {
            known.places.clear();
        }
        known.places.insert(frame.instruction, index);
        Some(index)
    }

    fn code(&mut self, at: u64, tracked: &Tracked, round: u64) -> Option<&mut KnownCode> {
        if self.codes.len() >= MAX_CODES {
            self.codes.clear();
        }
        let memory = tracked.memory.as_ref();
        let known = self.codes.get_mut(&at);
        let fresh = match known {
            Some(k) if k.checked == round => false,
            Some(k) => {
                k.checked = round;
                // If the process is gone, the last version read is kept.
                let gone = tracked.process.as_ref().is_none_or(|p| !p.is_alive());
                !gone && !memory.is_some_and(|m| self.reader.is_unchanged(m, Avma(at), &k.code))
            }
            None => true,
        };
        if fresh {
            self.codes.remove(&at);
            let code = Arc::new(self.reader.read(memory?, Avma(at)).ok()?);
            self.codes.insert(at, KnownCode { code, checked: round, places: FxHashMap::default() });
        }
        self.codes.get_mut(&at)
    }
}

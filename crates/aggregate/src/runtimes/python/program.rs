//! One interpreter in one process.

use std::collections::VecDeque;
use std::sync::Arc;

use events::{Chain, ChainEnd, ChainFrame, ChainLayout};
use image::{Avma, MappingKind};
use process::ProcessMemory;
use pyruntime::{Code, CodeReader, FindError, FrameStyle, Layout, Runtime};
use rustc_hash::FxHashMap;

use super::{NamedLine, Names, WhichChain, read};
use crate::ids::PythonIndex;
use crate::processes::Tracked;

/// A chain and its sample are written in one interrupt; a hypervisor may take the CPU away
/// between them, but seldom for long. Half the shortest period that one would sample with.
const MAX_APART_NS: u64 = 50_000;
/// Chains of a thread that wait for their samples.
const MAX_WAITING: usize = 16_384;
/// Code objects that are remembered.
const MAX_CODES: usize = 65_536;
/// Places in one code object that are remembered.
const MAX_PLACES: usize = 8192;

/// The chain of a sample.
pub struct OwnedChain {
    time: u64,
    pub(super) end: ChainEnd,
    pub(super) frames: Vec<ChainFrame>,
}

pub(super) struct Program {
    runtime: Runtime,
    reader: CodeReader,
    waiting: FxHashMap<i32, VecDeque<OwnedChain>>,
    codes: FxHashMap<u64, KnownCode>,
    followed: bool,
}

struct KnownCode {
    code: Arc<Code>,
    checked: u64,
    places: FxHashMap<u64, PythonIndex>,
}

/// The interpreter of a process, if it has one.
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
        Self {
            runtime,
            reader,
            waiting: FxHashMap::default(),
            codes: FxHashMap::default(),
            followed: false,
        }
    }

    pub(super) fn style(&self) -> FrameStyle {
        self.runtime.layout().style
    }

    pub(super) fn evaluates(&self, at: Avma) -> bool {
        self.runtime.evaluates(at)
    }

    /// What the BPF program has to know.
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

    /// The chain of a thread that stands still.
    pub(super) fn read_chain(&self, memory: &ProcessMemory, thread_pointer: u64) -> OwnedChain {
        let (end, frames) = read::chain(memory, &self.chain_layout(), thread_pointer);
        OwnedChain { time: 0, end, frames }
    }

    pub(super) fn add_chain(&mut self, chain: &Chain<'_>) {
        self.followed = true;
        if self.waiting.len() > 65_536 {
            self.waiting.clear();
        }
        let waiting = self.waiting.entry(chain.tid).or_default();
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
        }
        let (time, end) = (chain.time, chain.end);
        waiting.push_back(OwnedChain { time, end, frames: chain.frames().collect() });
    }

    /// Whether any chain has come yet.
    pub(super) fn has_chains(&self) -> bool {
        self.followed
    }

    /// The chain that was read for a sample.
    pub(super) fn take_chain(&mut self, tid: i32, which: WhichChain) -> Option<OwnedChain> {
        let (time, apart_at_most) = match which {
            WhichChain::Near(time) => (time, MAX_APART_NS),
            WhichChain::At(time) => (time, 0),
            WhichChain::None => return None,
        };
        let waiting = self.waiting.get_mut(&tid)?;
        while let Some(first) = waiting.front() {
            if first.time + apart_at_most >= time {
                break;
            }
            waiting.pop_front();
        }
        let apart = |c: &OwnedChain| c.time.abs_diff(time);
        while let (Some(first), Some(second)) = (waiting.front(), waiting.get(1)) {
            if apart(second) >= apart(first) {
                break;
            }
            waiting.pop_front();
        }
        if waiting.front().is_some_and(|c| apart(c) <= apart_at_most) {
            return waiting.pop_front();
        }
        None
    }

    /// The function and line of a frame; `None` where its code is gone.
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
                // Of a process that has gone, what was read last is what there was.
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

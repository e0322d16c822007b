//! Follows the linked frames of an interpreter at the moment of a sample, with a BPF program.
//!
//! Samples are read some milliseconds after they were taken, and the interpreter has changed the
//! frames in its heap by then. The program (`bpf/interpreter.h`) runs while the sampled thread is
//! interrupted: with the sampling event (`bpf/interpreter.bpf.c`), or as a part of the programs
//! that sample waiting (`bpf/waits_chains.bpf.c`). It knows no particular interpreter: a
//! [`ChainLayout`] per process tells it where the links are.

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::PerfEvent;
use zerocopy::{FromBytes as _, Immutable, IntoBytes, transmute};

use crate::SampleProgram;
use crate::bpf::interpreter::{self as abi, LayoutBytes, OBJECT};
use crate::bpf::{self, BpfError, BpfStep, Loaded};

/// The program that runs with sampling events.
const PROGRAM: &str = "follow_interpreter";

/// Where the links of the chain are in a process. All but `head` and `thread_bias` are offsets in a
/// structure, in bytes, of 64-bit words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct ChainLayout {
    /// Address of the pointer to the first interpreter.
    pub head: u64,
    /// Added to the thread pointer (`fs` base, `tpidr_el0`) to get the interpreter's id of a
    /// thread.
    pub thread_bias: u64,
    /// In an interpreter, the next one.
    pub interpreter_next: u32,
    /// In an interpreter, its first thread.
    pub interpreter_threads: u32,
    /// In a thread, the next one.
    pub thread_next: u32,
    /// In a thread, its id.
    pub thread_id: u32,
    /// In a thread, its innermost frame, or the C frame that leads there.
    pub thread_frame: u32,
    /// [`ChainLayout::THROUGH_C_FRAME`], [`ChainLayout::ANCHORED_BY_C_FRAMES`].
    pub flags: u32,
    /// In a C frame, its innermost interpreter frame.
    pub c_frame_current: u32,
    /// In a C frame, the previous C frame.
    pub c_frame_previous: u32,
    /// In a frame, its code.
    pub frame_code: u32,
    /// In a frame, the one that called it.
    pub frame_previous: u32,
    /// In a frame, its position in the code.
    pub frame_instruction: u32,
    /// In a frame, the byte with its owner; 0 if there is none.
    pub frame_owner: u32,
}

impl ChainLayout {
    /// The thread leads to a C frame, and that to the frames.
    pub const THROUGH_C_FRAME: u32 = 1;
    /// A frame that is the current one of the previous C frame belongs to that C frame.
    pub const ANCHORED_BY_C_FRAMES: u32 = 2;
}

/// How a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainEnd {
    /// At its last frame.
    Complete,
    /// The interpreter does not know the sampled thread.
    NoThread,
    /// At memory that is not mapped, or not in RAM.
    Unreadable,
    /// At the limit of 1000 frames.
    TooMany,
}

/// A frame of an interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainFrame {
    /// Its address.
    pub address: u64,
    /// Its code.
    pub code: u64,
    /// Its position in the code.
    pub instruction: u64,
    /// The address of the C frame that it belongs to, where there are C frames.
    pub c_frame: u64,
    /// Its owner, in the interpreter's numbers.
    pub owner: u8,
}

/// The chain of one sample.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// CLOCK_MONOTONIC, in nanoseconds: right before the sample was taken.
    pub time: u64,
    /// The sampled thread's process.
    pub pid: i32,
    /// The sampled thread.
    pub tid: i32,
    /// How it ended.
    pub end: ChainEnd,
    frames: &'a [u8],
}

impl<'a> Chain<'a> {
    fn parse(record: &'a [u8]) -> Option<Self> {
        let (head, frames) = abi::Chain::read_from_prefix(record).ok()?;
        let end = match head.status {
            abi::STATUS_COMPLETE => ChainEnd::Complete,
            abi::STATUS_NO_THREAD => ChainEnd::NoThread,
            abi::STATUS_UNREADABLE => ChainEnd::Unreadable,
            _ => ChainEnd::TooMany,
        };
        let len = usize::try_from(head.count).ok()?.checked_mul(size_of::<abi::Frame>())?;
        Some(Self {
            time: head.time,
            pid: head.pid.cast_signed(),
            tid: head.tid.cast_signed(),
            end,
            frames: frames.get(..len)?,
        })
    }

    /// The frames, innermost first.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = ChainFrame> + 'a {
        self.frames.chunks_exact(size_of::<abi::Frame>()).map(|bytes| {
            let frame = abi::Frame::read_from_bytes(bytes).expect("a chunk of its size");
            ChainFrame {
                address: frame.address,
                code: frame.code,
                instruction: frame.instruction,
                c_frame: frame.anchor & ((1 << 56) - 1),
                owner: (frame.anchor >> 56) as u8,
            }
        })
    }
}

/// Follows chains: the maps of the loaded programs. The programs are unloaded when this and all
/// events that run them are gone.
pub struct Chains {
    layouts: HashMap<MapData, u32, LayoutBytes>,
    lost: PerCpuArray<MapData, u64>,
    ring: RingBuf<MapData>,
    /// Holds the program for sampling events and the rest of its object; `None` where the programs
    /// that sample waits follow chains.
    object: Option<Loaded>,
}

impl Chains {
    /// Loads the program for sampling events.
    ///
    /// # Errors
    /// [`BpfError`]; it requires CAP_BPF, CAP_PERFMON, Linux 5.17 and the kernel's BTF.
    pub fn load() -> Result<Self, BpfError> {
        let namespace = host::namespace::pid_inode()
            .map_err(|e| BpfError::new(OBJECT.name, OBJECT.since, BpfStep::Open, &e))?;
        let types = bpf::kernel_types(&OBJECT)?;
        let mut loader = EbpfLoader::new();
        let loader = loader.btf(Some(&types)).override_global("NS_INO", &namespace, true);
        let mut object = OBJECT.open_by(loader)?;
        let failed = object.failed(BpfStep::Load(PROGRAM));
        object.program_mut::<PerfEvent>(PROGRAM)?.load().map_err(failed)?;
        bpf::loaded(PROGRAM);
        let chains = Self::of(&mut object)?;
        Ok(Self { object: Some(object), ..chains })
    }

    /// Takes the maps of programs that follow chains.
    pub(crate) fn of(object: &mut Loaded) -> Result<Self, BpfError> {
        Ok(Self {
            layouts: object.take_map("LAYOUTS")?,
            lost: object.take_map("LOST")?,
            ring: object.take_map("CHAINS")?,
            object: None,
        })
    }

    /// The program, to run with each sample.
    ///
    /// # Errors
    /// [`BpfError`] when descriptors run out, or when there is no program for sampling events.
    pub fn program(&self) -> Result<SampleProgram, BpfError> {
        let missing = || BpfError::missing(OBJECT.name, BpfStep::Attach(PROGRAM));
        self.object.as_ref().ok_or_else(missing)?.sample_program(PROGRAM)
    }

    /// Follows the chains of a process from now on.
    ///
    /// # Errors
    /// [`BpfError`] when more than 4096 processes are followed.
    pub fn follow(&mut self, pid: i32, layout: &ChainLayout) -> Result<(), BpfError> {
        let bytes: LayoutBytes = transmute!(*layout);
        self.layouts
            .insert(pid.cast_unsigned(), bytes, 0)
            .map_err(|e| BpfError::new(OBJECT.name, OBJECT.since, BpfStep::Map("LAYOUTS"), &e))
    }

    /// Stops following the chains of a process.
    pub fn forget(&mut self, pid: i32) {
        // It may be gone, or never have been followed.
        let _ = self.layouts.remove(&pid.cast_unsigned());
    }

    /// Passes on the chains that were recorded.
    pub fn drain(&mut self, mut sink: impl FnMut(&Chain<'_>)) {
        while let Some(item) = self.ring.next() {
            if let Some(chain) = Chain::parse(&item) {
                sink(&chain);
            }
        }
    }

    /// Chains that were lost: the ring had no space.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).map_or(0, |per_cpu| per_cpu.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_parsed_or_rejected() {
        let mut bytes = Vec::new();
        bytes.extend(77u64.to_le_bytes());
        for word in [5u32, 6, 2, 1] {
            bytes.extend(word.to_le_bytes());
        }
        for word in [0x1000u64, 0x2000, 0x3000, 0x7fff_0000 | 3 << 56] {
            bytes.extend(word.to_le_bytes());
        }
        let chain = Chain::parse(&bytes).unwrap();
        assert_eq!((chain.time, chain.pid, chain.tid, chain.end), (77, 5, 6, ChainEnd::Unreadable));
        let frame = chain.frames().next().unwrap();
        assert_eq!((frame.address, frame.c_frame, frame.owner), (0x1000, 0x7fff_0000, 3));
        for n in 0..bytes.len() {
            assert!(Chain::parse(&bytes[..n]).is_none());
        }
    }
}

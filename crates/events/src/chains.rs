//! Chains of an interpreter's frames, followed at the moment of a sample by a BPF program.
//!
//! Samples are read some milliseconds after they were taken; an interpreter's frames lie in its
//! heap and are others by then. The program (`bpf/interpreter.h`) runs while the sampled thread
//! stands still: on the sampling event (`bpf/interpreter.bpf.c`), or as part of those that sample
//! waiting (`bpf/waits_chains.bpf.c`). It knows nothing of any interpreter: where the links are is
//! told by a [`ChainLayout`] per process.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::PerfEvent;
use aya::{Ebpf, EbpfLoader};

use crate::SampleProgram;

#[cfg(target_arch = "x86_64")]
const OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/interpreter.x86_64.o");
#[cfg(target_arch = "aarch64")]
const OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/interpreter.aarch64.o");
/// Its program.
const PROGRAM: &str = "follow_interpreter";

/// Time, pid, tid, status, count.
const HEADER: usize = 24;
/// A frame in a record.
const FRAME: usize = 32;

/// Why chains cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
pub struct ChainError {
    /// What was tried.
    what: &'static str,
    /// How it failed.
    why: String,
}

fn failed(what: &'static str) -> impl Fn(&dyn std::error::Error) -> ChainError {
    move |e| {
        // The chain of causes, without the verifier's log that some of them hold.
        let mut why = first_line(&e.to_string());
        let mut cause = e.source();
        while let Some(e) = cause {
            why = format!("{why}: {}", first_line(&e.to_string()));
            cause = e.source();
        }
        ChainError { what, why }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Where the links of the chain are in a process. All but `head` and `thread_bias` are offsets in
/// the structure before; they are read as 64-bit words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ChainLayout {
    /// Address of the pointer to the first interpreter.
    pub head: u64,
    /// What is added to the thread pointer (`fs` base, `tpidr_el0`) to get the interpreter's id
    /// of a thread.
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
    /// In a C frame, its innermost frame.
    pub c_frame_current: u32,
    /// In a C frame, the C frame before.
    pub c_frame_previous: u32,
    /// In a frame, its code.
    pub frame_code: u32,
    /// In a frame, the one that called it.
    pub frame_previous: u32,
    /// In a frame, where it is.
    pub frame_instruction: u32,
    /// In a frame, the byte that tells who owns it; 0 for none.
    pub frame_owner: u32,
}

impl ChainLayout {
    /// The thread leads to a C frame, and that to the frames.
    pub const THROUGH_C_FRAME: u32 = 1;
    /// A frame that is the current one of the C frame before belongs to that.
    pub const ANCHORED_BY_C_FRAMES: u32 = 2;
}

// SAFETY: integers only, and none of its bytes is padding (`repr(C)`, 16 bytes of 64-bit fields
// followed by 12 32-bit ones).
#[allow(unsafe_code)]
unsafe impl aya::Pod for ChainLayout {}

/// How the following of a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainEnd {
    /// At its end.
    Complete,
    /// The sampled thread is none of the interpreter's.
    NoThread,
    /// At memory that is not there, or not in RAM.
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
    /// Where in the code it is.
    pub instruction: u64,
    /// The C frame that it belongs to, where the chain leads through them.
    pub c_frame: u64,
    /// Who owns it.
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
        let (header, frames) = record.split_at_checked(HEADER)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or([0; 4]));
        let end = match word(16) {
            0 => ChainEnd::Complete,
            1 => ChainEnd::NoThread,
            2 => ChainEnd::Unreadable,
            _ => ChainEnd::TooMany,
        };
        let len = usize::try_from(word(20)).ok()?.checked_mul(FRAME)?;
        Some(Self {
            time: u64::from_le_bytes(header[..8].try_into().ok()?),
            pid: word(8).cast_signed(),
            tid: word(12).cast_signed(),
            end,
            frames: frames.get(..len)?,
        })
    }

    /// The frames, innermost first.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = ChainFrame> + 'a {
        self.frames.chunks_exact(FRAME).map(|c| {
            let word = |at: usize| u64::from_le_bytes(c[at..at + 8].try_into().unwrap_or([0; 8]));
            let anchor = word(24);
            ChainFrame {
                address: word(0),
                code: word(8),
                instruction: word(16),
                c_frame: anchor & ((1 << 56) - 1),
                owner: (anchor >> 56) as u8,
            }
        })
    }
}

/// What follows chains: the maps of the loaded programs. They are unloaded when this and all events
/// that they hang on are gone.
pub struct Chains {
    layouts: HashMap<MapData, u32, ChainLayout>,
    lost: PerCpuArray<MapData, u64>,
    ring: RingBuf<MapData>,
    // Holds the program for sampling events and the rest of what was loaded.
    object: Option<Ebpf>,
}

impl Chains {
    /// Loads the program for sampling events. It needs CAP_BPF and CAP_PERFMON, Linux 5.17 and the kernel's BTF.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn load() -> Result<Self, ChainError> {
        let namespace = std::fs::metadata("/proc/self/ns/pid")
            .map_err(|e| failed("look at the PID namespace")(&e))?;
        let ino = namespace.ino();
        let mut object = EbpfLoader::new()
            .override_global("NS_INO", &ino, true)
            .load(OBJECT)
            .map_err(|e| failed("load the BPF program for interpreters")(&e))?;
        let program: &mut PerfEvent = object
            .program_mut(PROGRAM)
            .ok_or_else(|| {
                failed("find the BPF program")(&io::Error::from(io::ErrorKind::NotFound))
            })?
            .try_into()
            .map_err(|e: aya::programs::ProgramError| failed("find the BPF program")(&e))?;
        program.load().map_err(|e| failed("load the BPF program for interpreters")(&e))?;
        let chains = Self::of(&mut object)?;
        Ok(Self { object: Some(object), ..chains })
    }

    /// Takes the maps of programs that follow chains.
    pub(crate) fn of(object: &mut Ebpf) -> Result<Self, ChainError> {
        let mut take = |name: &'static str| {
            object.take_map(name).ok_or_else(|| {
                failed("find a BPF map")(&io::Error::new(io::ErrorKind::NotFound, name))
            })
        };
        let map_error = |e: aya::maps::MapError| failed("use a BPF map")(&e);
        let layouts = HashMap::try_from(take("LAYOUTS")?).map_err(map_error)?;
        let lost = PerCpuArray::try_from(take("LOST")?).map_err(map_error)?;
        let ring = RingBuf::try_from(take("CHAINS")?).map_err(map_error)?;
        Ok(Self { layouts, lost, ring, object: None })
    }

    /// The program, to run with each sample.
    ///
    /// # Errors
    /// File descriptors ran out, or this was not loaded for sampling events.
    pub fn program(&self) -> Result<SampleProgram, ChainError> {
        let program = self.object.as_ref().and_then(|object| object.program(PROGRAM));
        let program = program.ok_or(io::ErrorKind::NotFound);
        let program = program.map_err(|e| failed("find the BPF program")(&io::Error::from(e)))?;
        let fd = program.fd().map_err(|e| failed("keep the BPF program")(&e))?;
        SampleProgram::of(fd).map_err(|e| failed("keep the BPF program")(&e))
    }

    /// Follows the chains of a process from now on.
    ///
    /// # Errors
    /// [`ChainError`]: too many processes.
    pub fn follow(&mut self, pid: i32, layout: &ChainLayout) -> Result<(), ChainError> {
        let pid = pid.cast_unsigned();
        self.layouts.insert(pid, layout, 0).map_err(|e| failed("follow a process")(&e))
    }

    /// Follows them no longer.
    pub fn forget(&mut self, pid: i32) {
        // It may be gone, or never have been followed.
        let _ = self.layouts.remove(&pid.cast_unsigned());
    }

    /// Hands out what has come.
    pub fn drain(&mut self, mut sink: impl FnMut(&Chain<'_>)) {
        while let Some(item) = self.ring.next() {
            if let Some(chain) = Chain::parse(&item) {
                sink(&chain);
            }
        }
    }

    /// Chains that found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).map_or(0, |per_cpu| per_cpu.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart_or_refused() {
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

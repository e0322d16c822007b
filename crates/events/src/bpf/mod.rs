//! Loads the committed BPF objects (`crates/events/bpf`) and mirrors the structures that their
//! programs share with us.
//!
//! Each file here that is named after a C source mirrors its structures: same names, same order,
//! sizes checked when we compile, fields compared with the object's type information in a test.

mod error;
pub(crate) mod goroutine;
pub(crate) mod interpreter;
pub(crate) mod stacks;
pub(crate) mod waits;

#[cfg(test)]
mod btf;

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{Map, MapData, MapError};
use aya::programs::{Iter, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

pub use error::{BpfError, BpfObstacle, BpfStep};

use crate::SampleProgram;

/// A compiled object with the name of its source, and the Linux version that its programs require.
pub(crate) struct Object {
    pub name: &'static str,
    pub since: &'static str,
    pub bytes: &'static [u8],
}

/// The object of this architecture that was compiled from `bpf/NAME.bpf.c`.
macro_rules! object {
    ($name:literal, since $since:literal) => {
        $crate::bpf::Object {
            name: $name,
            since: $since,
            #[cfg(target_arch = "x86_64")]
            bytes: aya::include_bytes_aligned!(concat!("../../bpf/", $name, ".x86_64.o")),
            #[cfg(target_arch = "aarch64")]
            bytes: aya::include_bytes_aligned!(concat!("../../bpf/", $name, ".aarch64.o")),
        }
    };
}
pub(crate) use object;

/// An opened object: its maps exist, its programs are fitted to the kernel and not loaded yet.
pub(crate) struct Loaded {
    name: &'static str,
    since: &'static str,
    ebpf: Ebpf,
}

/// The running kernel's types.
pub(crate) fn kernel_types(object: &Object) -> Result<Btf, BpfError> {
    Btf::from_sys_fs().map_err(|e| BpfError::new(object.name, object.since, BpfStep::Open, &e))
}

impl Object {
    /// Creates the maps and fits the programs. `types` are the kernel's, for objects that read its
    /// structures.
    pub fn open(&self, types: Option<&Btf>) -> Result<Loaded, BpfError> {
        // The kernel knows task storage, the library does not.
        self.open_by(EbpfLoader::new().btf(types).allow_unsupported_maps())
    }

    /// As [`Object::open`], with the caller's loader.
    pub fn open_by(&self, loader: &mut EbpfLoader<'_>) -> Result<Loaded, BpfError> {
        let Self { name, since, bytes } = *self;
        let ebpf = loader.load(bytes).map_err(|e| BpfError::new(name, since, BpfStep::Open, &e))?;
        tracing::debug!(object = name, "bpf object opened");
        Ok(Loaded { name, since, ebpf })
    }
}

impl Loaded {
    /// Returns a closure that wraps an error of `step`, for `map_err`.
    pub fn failed<E: std::error::Error + 'static>(
        &self,
        step: BpfStep,
    ) -> impl Fn(E) -> BpfError + use<E> {
        let (name, since) = (self.name, self.since);
        move |e| BpfError::new(name, since, step, &e)
    }

    /// A program, to be loaded or attached.
    pub fn program_mut<'a, T>(&'a mut self, name: &'static str) -> Result<&'a mut T, BpfError>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let failed = self.failed(BpfStep::Load(name));
        let missing = BpfError::missing(self.name, BpfStep::Load(name));
        self.ebpf.program_mut(name).ok_or(missing)?.try_into().map_err(failed)
    }

    /// A loaded program for sampling events.
    pub fn sample_program(&self, name: &'static str) -> Result<SampleProgram, BpfError> {
        let step = BpfStep::Attach(name);
        let program = self.ebpf.program(name);
        let program = program.ok_or_else(|| BpfError::missing(self.name, step))?;
        let descriptor = program.fd().map_err(self.failed(step))?;
        SampleProgram::of(descriptor).map_err(self.failed(step))
    }

    /// Starts a loaded iterator. Its output is read from the file.
    pub fn iterate(&mut self, name: &'static str) -> Result<File, BpfError> {
        let step = BpfStep::Iterate(name);
        let failed = self.failed(step);
        let iterator: &mut Iter = self.program_mut(name)?;
        let id = iterator.attach().map_err(&failed)?;
        let link = iterator.take_link(id).map_err(&failed)?;
        link.into_file().map_err(self.failed(step))
    }

    /// A map of a kind that the library knows.
    pub fn map<'a, T>(&'a self, name: &'static str) -> Result<T, BpfError>
    where
        T: TryFrom<&'a Map, Error = MapError>,
    {
        let map = self.ebpf.map(name);
        let map = map.ok_or_else(|| BpfError::missing(self.name, BpfStep::Map(name)))?;
        T::try_from(map).map_err(self.failed(BpfStep::Map(name)))
    }

    /// As [`Loaded::map`], for writing.
    pub fn map_mut<'a, T>(&'a mut self, name: &'static str) -> Result<T, BpfError>
    where
        T: TryFrom<&'a mut Map, Error = MapError>,
    {
        let failed = self.failed(BpfStep::Map(name));
        let missing = BpfError::missing(self.name, BpfStep::Map(name));
        T::try_from(self.ebpf.map_mut(name).ok_or(missing)?).map_err(failed)
    }

    /// Takes a map out of the object.
    pub fn take_map<T>(&mut self, name: &'static str) -> Result<T, BpfError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let map = self.ebpf.take_map(name);
        let map = map.ok_or_else(|| BpfError::missing(self.name, BpfStep::Map(name)))?;
        T::try_from(map).map_err(self.failed(BpfStep::Map(name)))
    }

    /// The descriptor of a map of a kind that the library does not know, or of perf events.
    pub fn map_fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, BpfError> {
        match self.ebpf.map(name) {
            Some(Map::Unsupported(data) | Map::PerfEventArray(data)) => Ok(fd(data)),
            _ => Err(BpfError::missing(self.name, BpfStep::Map(name))),
        }
    }
}

fn fd(data: &MapData) -> BorrowedFd<'_> {
    data.fd().as_fd()
}

/// Loads a program that was found by [`Loaded::program_mut`]; the log names it.
pub(crate) fn loaded(program: &'static str) {
    tracing::debug!(program, "bpf program loaded");
}

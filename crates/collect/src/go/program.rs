//! Finds the Go programs among the targets, and opens their runtime and memory.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assemble::builder::main_mapping;
use goruntime::{FindError, Runtime};
use host::{Rights, TargetRights};
use image::{AddressSpace, Avma, Bias, ElfImage, Mapping, MappingId};
use process::{Images, Process, ProcessMemory, WritableMemory};

use crate::collector::Request;
use crate::outcome::RecordError;

/// A process with a Go runtime that we can read.
pub(crate) struct Program {
    pub process: Arc<Process>,
    pub memory: ProcessMemory,
    pub runtime: Runtime,
    /// The process' executable mappings.
    pub space: AddressSpace,
    /// The mapping that contains the Go code.
    pub main: Arc<Mapping>,
    /// For changing the sampling rates. It belongs to the same program as the addresses, even if
    /// the process calls exec.
    pub writable: Result<WritableMemory, process::WriteError>,
}

impl Program {
    /// Opens a process and finds its runtime; `None` if its executable has no Go code.
    pub fn open(process: &Arc<Process>) -> Result<Option<Self>, RecordError> {
        let Some((space, main, image, bias)) = go_image(process)? else { return Ok(None) };
        let pid = process.pid();
        // This must come before any address is looked up: see WritableMemory::open.
        let writable = WritableMemory::open(process);
        let memory = process.memory().map_err(|error| RecordError::Memory { pid, error })?;
        memory.probe(main.start).map_err(|error| no_access(pid, error))?;
        match Runtime::find(&image, bias, &memory) {
            Ok(runtime) => {
                let process = process.clone();
                Ok(Some(Self { process, memory, runtime, space, main, writable }))
            }
            Err(FindError::NotGo) => Ok(None),
            Err(e) => Err(RecordError::NotApplicable(format!("process {pid}: {e}"))),
        }
    }

    /// Turns an error of reading the runtime into one that names the process.
    pub fn error(&self, error: goruntime::ReadError) -> RecordError {
        let pid = self.process.pid();
        match error {
            // The program is stripped, and its code does not match a pattern that reveals the
            // variable.
            goruntime::ReadError::NoAddress(_) => RecordError::NotApplicable(format!(
                "process {pid}: {error}: it has no symbols, and its code matches no known pattern"
            )),
            _ => RecordError::GoRuntime { pid, error },
        }
    }

    /// The mapping that contains an address.
    pub fn mapping_at(&self, address: Avma) -> Option<&Arc<Mapping>> {
        self.space.find(address)
    }
}

/// The Go programs that are recorded together: see [`Programs::find`].
pub(crate) enum Programs {
    /// Running programs.
    Running(Vec<Program>),
    /// A command that has not called exec yet and will be a Go program.
    Expected(Arc<Process>),
}

impl Programs {
    /// Opens the targets as Go programs; `None` if none of them is one.
    pub fn find(request: &Request<'_>) -> Result<Option<Self>, RecordError> {
        if request.before_exec {
            let waiting = request.roots.first().filter(|_| command_is_go(&request.options.command));
            return Ok(waiting.map(|process| Self::Expected(process.clone())));
        }
        let (mut programs, mut others) = (Vec::new(), Vec::new());
        for process in request.roots {
            match Program::open(process)? {
                Some(program) => programs.push(program),
                None => others.push(process.pid()),
            }
        }
        if programs.is_empty() {
            return Ok(None);
        }
        if let Some(pid) = others.first() {
            return Err(RecordError::NotApplicable(format!(
                "process {} is a Go program and process {pid} is not; fix: record them separately",
                programs[0].process.pid()
            )));
        }
        Ok(Some(Self::Running(programs)))
    }
}

type GoImage = (AddressSpace, Arc<Mapping>, Arc<ElfImage>, Bias);

/// The main image of a process, if it contains Go code.
fn go_image(process: &Process) -> Result<Option<GoImage>, RecordError> {
    let pid = process.pid();
    let failed = |error| RecordError::Memory { pid, error };
    let maps = process.exec_maps().map_err(failed)?;
    let mut images = Images::new();
    let mut space = AddressSpace::default();
    for (id, row) in maps.rows.iter().enumerate() {
        let id = MappingId(u32::try_from(id).unwrap_or(u32::MAX));
        space.insert(id, images.resolve(Some(process), row));
    }
    let identity = process.read_identity().map_err(failed)?;
    let exe = identity.exe.as_ref().and_then(|e| e.to_str());
    let Some(main) = main_mapping(&space, exe) else { return Ok(None) };
    let Ok((image, bias)) = main.image.clone() else { return Ok(None) };
    Ok(gopclntab::is_go(&image).then_some((space, main, image, bias)))
}

/// Explains why memory cannot be read, with the fix if a right is missing.
fn no_access(pid: i32, error: std::io::Error) -> RecordError {
    let obstacle = || {
        let (rights, target) = (Rights::read().ok()?, TargetRights::read(pid).ok()?);
        rights.attach(&target).err()
    };
    match obstacle() {
        Some(o) => RecordError::NotPermitted { pid, reason: o.reason, fix: o.fix },
        None => RecordError::Memory { pid, error },
    }
}

/// Whether a command that has not been executed yet is a Go program.
fn command_is_go(command: &[OsString]) -> bool {
    let Some(path) = command.first().and_then(|name| in_path(Path::new(name))) else {
        return false;
    };
    let image = File::open(path).ok().and_then(|f| ElfImage::open(&f).ok());
    image.is_some_and(|image| gopclntab::is_go(&image))
}

/// Looks up a command's name in `PATH`, as execvp(3) does.
fn in_path(name: &Path) -> Option<PathBuf> {
    if name.components().count() != 1 || name.is_absolute() {
        return Some(name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file())
}

//! Finds the separate debug file of an image.
//!
//! The rules are those of gdb: first by build ID, which cannot be wrong, then by the name in
//! `.gnu_debuglink`: beside the image, in `.debug/`, and under `/usr/lib/debug`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use image::{ElfError, ElfImage};

/// Limit of a debug file whose checksum is computed, in bytes.
const MAX_CRC_BYTES: u64 = 8 << 30;
const DEBUG_ROOT: &str = "/usr/lib/debug";

/// Opens files by their paths as the target sees them. The implementation decides what the root
/// directory is and how symbolic links are followed.
pub trait DebugFiles: Sync {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// The file cannot be opened; usually it does not exist (`NotFound`).
    fn open(&self, path: &Path) -> io::Result<File>;

    /// Maps a file that was opened. Its owner may truncate it while it is mapped: implementations
    /// that open files of a target must guard against that.
    ///
    /// # Errors
    /// The file cannot be mapped, or is not an ELF image.
    fn map(&self, file: &File) -> Result<Arc<ElfImage>, ElfError> {
        Ok(Arc::new(ElfImage::open(file)?))
    }

    /// Searches for a debug file by build ID outside of the target's root: in the profiler's caches
    /// or on a server. Calls `accept` with each candidate until it returns true. The path is only
    /// for display.
    fn by_build_id(&self, _id: &[u8], _accept: &mut dyn FnMut(PathBuf, io::Result<File>) -> bool) {}
}

/// Opens files below a root directory. Symbolic links are followed by the kernel from the
/// profiler's own root: for files that an untrusted target controls, use another implementation.
#[derive(Debug, Clone)]
pub struct RootedFiles {
    root: PathBuf,
}

impl RootedFiles {
    /// Files below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl DebugFiles for RootedFiles {
    fn open(&self, path: &Path) -> io::Result<File> {
        let mut full = self.root.clone();
        for part in path.components() {
            match part {
                Component::Normal(p) => full.push(p),
                Component::ParentDir => return Err(io::ErrorKind::InvalidInput.into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        // Without O_NONBLOCK, opening a named pipe could block forever.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(full)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }
}

/// How a debug file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugSource {
    /// `/usr/lib/debug/.build-id/xx/yyyy.debug`.
    BuildId,
    /// The name and checksum in `.gnu_debuglink`.
    DebugLink,
    /// By build ID in a cache or on a server: [`DebugFiles::by_build_id`].
    Cache,
}

/// Why a candidate was rejected.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It cannot be opened or read; usually it does not exist.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not a usable ELF file.
    #[error("{0}")]
    Elf(#[from] ElfError),
    /// It belongs to another build.
    #[error("its build ID differs")]
    BuildId,
    /// The checksum in `.gnu_debuglink` is not that of the file.
    #[error("its checksum differs from the one in .gnu_debuglink")]
    Checksum,
    /// It does not hold the split unit: the `DW_AT_dwo_id` differs.
    #[error("it is not the split debug information of this build")]
    SplitUnit,
    /// It holds neither debug information nor a symbol table.
    #[error("it holds no debug information and no symbols")]
    Empty,
}

/// A candidate that was rejected.
#[derive(Debug)]
pub struct RejectedFile {
    /// The path as the target sees it.
    pub path: PathBuf,
    /// Why it was rejected.
    pub rejection: Rejection,
}

impl RejectedFile {
    pub(crate) fn new(path: PathBuf, rejection: Rejection) -> Self {
        tracing::debug!(path = %path.display(), %rejection, "rejected a debug file");
        Self { path, rejection }
    }
}

/// The separate debug file of an image.
#[derive(Debug, Clone)]
pub struct DebugFile {
    /// Its path as the target sees it.
    pub path: PathBuf,
    /// Its contents.
    pub image: Arc<ElfImage>,
    /// How it was found.
    pub source: DebugSource,
    /// The file to which `dwz` moved parts that several files share (`.gnu_debugaltlink`).
    pub supplementary: Option<Arc<ElfImage>>,
}

/// The result of a search: what was found, and which candidates were rejected before.
#[derive(Debug, Default)]
pub struct DebugSearch {
    /// The separate debug file.
    pub file: Option<DebugFile>,
    /// The `dwz` file of the image, if the image itself holds debug information.
    pub supplementary: Option<Arc<ElfImage>>,
    /// The rejected candidates, in order: they tell where a debug file can be put.
    pub rejected: Vec<RejectedFile>,
}

/// Searches for the debug file of an image. `path` is that of the image as the target sees it.
///
/// An image that holds `.debug_info` itself needs none: only its `dwz` file is searched for.
pub fn find_debug_file(image: &ElfImage, path: &Path, files: &dyn DebugFiles) -> DebugSearch {
    let mut search = DebugSearch::default();
    if has_dwarf(image) {
        search.supplementary = supplementary(image, path, files, &mut search.rejected);
        return search;
    }
    for (candidate, proof) in candidates(image, path) {
        let source = match proof {
            Proof::BuildId => DebugSource::BuildId,
            Proof::Checksum(_) => DebugSource::DebugLink,
        };
        let file = files.open(&candidate);
        if search.take(candidate, source, accept(image, file, &proof, files), files) {
            return search;
        }
    }
    if let Some(id) = image.build_id() {
        files.by_build_id(id, &mut |path, file| {
            let accepted = accept(image, file, &Proof::BuildId, files);
            search.take(path, DebugSource::Cache, accepted, files)
        });
    }
    search
}

impl DebugSearch {
    /// Takes a candidate and returns true, or records why it was rejected.
    fn take(
        &mut self,
        path: PathBuf,
        source: DebugSource,
        accepted: Result<Arc<ElfImage>, Rejection>,
        files: &dyn DebugFiles,
    ) -> bool {
        match accepted {
            Ok(debug) => {
                tracing::debug!(path = %path.display(), ?source, "using a debug file");
                let supplementary = supplementary(&debug, &path, files, &mut self.rejected);
                self.file = Some(DebugFile { path, image: debug, source, supplementary });
                true
            }
            Err(rejection) => {
                self.rejected.push(RejectedFile::new(path, rejection));
                false
            }
        }
    }
}

/// Whether the image holds DWARF.
pub(crate) fn has_dwarf(image: &ElfImage) -> bool {
    [".debug_info", ".zdebug_info"]
        .iter()
        .any(|name| image.section(name).is_some_and(|s| !s.data.is_empty()))
}

/// What proves that a candidate belongs to the image.
enum Proof {
    BuildId,
    Checksum(u32),
}

fn candidates(image: &ElfImage, path: &Path) -> Vec<(PathBuf, Proof)> {
    let mut all = Vec::new();
    if let Some(p) = image.build_id().and_then(build_id_path) {
        all.push((p, Proof::BuildId));
    }
    if let (Some((name, crc)), Some(dir)) = (debug_link(image), path.parent()) {
        let below = dir.strip_prefix("/").unwrap_or(dir);
        for folder in [dir.to_owned(), dir.join(".debug"), Path::new(DEBUG_ROOT).join(below)] {
            let candidate = folder.join(&name);
            // The link of a stripped file may name the file itself.
            if candidate != path {
                all.push((candidate, Proof::Checksum(crc)));
            }
        }
    }
    all
}

fn build_id_path(id: &[u8]) -> Option<PathBuf> {
    use std::fmt::Write as _;
    let (first, rest) = id.split_first()?;
    if rest.is_empty() {
        return None;
    }
    let mut p = format!("{DEBUG_ROOT}/.build-id/{first:02x}/");
    for b in rest {
        let _ = write!(p, "{b:02x}");
    }
    Some(PathBuf::from(p + ".debug"))
}

/// `.gnu_debuglink`: a file name, NUL, padding to 4 bytes, CRC-32 (gdb manual, Separate Debug
/// Files).
fn debug_link(image: &ElfImage) -> Option<(String, u32)> {
    let data = image.section(".gnu_debuglink")?.data;
    let end = data.iter().take(4096).position(|&b| b == 0)?;
    let name = std::str::from_utf8(&data[..end]).ok()?;
    let at = (end + 1).next_multiple_of(4);
    let crc = u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?);
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    plain.then(|| (name.to_owned(), crc))
}

fn accept(
    image: &ElfImage,
    file: io::Result<File>,
    proof: &Proof,
    files: &dyn DebugFiles,
) -> Result<Arc<ElfImage>, Rejection> {
    let file = file?;
    let debug = files.map(&file)?;
    debug.share_budget_of(image);
    match (proof, image.build_id(), debug.build_id()) {
        (_, Some(ours), Some(theirs)) if ours == theirs => {}
        (_, Some(_), Some(_)) | (Proof::BuildId, _, _) => return Err(Rejection::BuildId),
        (Proof::Checksum(crc), _, _) if crc32(file)? != *crc => return Err(Rejection::Checksum),
        _ => {}
    }
    let useful = has_dwarf(&debug) || debug.section(".symtab").is_some_and(|s| !s.data.is_empty());
    if useful { Ok(debug) } else { Err(Rejection::Empty) }
}

fn crc32(file: File) -> io::Result<u32> {
    let mut crc = flate2::Crc::new();
    let mut buf = vec![0; 64 << 10];
    let mut input = file.take(MAX_CRC_BYTES);
    loop {
        match input.read(&mut buf)? {
            0 => return Ok(crc.sum()),
            n => crc.update(&buf[..n]),
        }
    }
}

/// `.gnu_debugaltlink`: a path, NUL, the build ID of the file there (dwz(1)).
fn supplementary(
    image: &ElfImage,
    path: &Path,
    files: &dyn DebugFiles,
    rejected: &mut Vec<RejectedFile>,
) -> Option<Arc<ElfImage>> {
    let data = image.section(".gnu_debugaltlink")?.data;
    let end = data.iter().take(4096).position(|&b| b == 0)?;
    let (name, id) = (Path::new(std::str::from_utf8(&data[..end]).ok()?), &data[end + 1..]);
    let stated = normal(&path.parent()?.join(name));
    for candidate in [Some(stated), build_id_path(id)].into_iter().flatten() {
        let opened = files.open(&candidate).map_err(Rejection::from).and_then(|file| {
            let other = files.map(&file)?;
            other.share_budget_of(image);
            if other.build_id() == Some(id) { Ok(other) } else { Err(Rejection::BuildId) }
        });
        match opened {
            Ok(image) => return Some(image),
            Err(rejection) => rejected.push(RejectedFile::new(candidate, rejection)),
        }
    }
    let mut found = None;
    files.by_build_id(id, &mut |_, file| {
        let mapped = file.ok().and_then(|file| files.map(&file).ok());
        found = mapped.filter(|other| other.build_id() == Some(id));
        if let Some(other) = &found {
            other.share_budget_of(image);
        }
        found.is_some()
    });
    found
}

/// Resolves `..` without looking at the file system: `dwz -m` writes relative paths such as
/// `../../.dwz/name`.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

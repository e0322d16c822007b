//! Finds debug files of the targets' images: in the targets' own root directories, then on this
//! machine.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use host::sigbus;
use image::{ElfError, ElfImage, ImageBytes};
use process::{Process, Root};
use symbolize::{DebugFiles, RootedFiles};

use crate::debuginfod;

/// The only directory of our own root that is searched by a path that a target can influence: debug
/// packages may be installed here and not in the target's container. Only the package manager writes
/// to it, and a file is accepted only if its build ID or checksum matches.
const HOST_DEBUG: &str = "/usr/lib/debug";

/// Files as the targets see them. The targets' root directories stay open, so that debug files are
/// still found after the targets have exited.
pub struct TargetFiles(pub Vec<Root>);

impl TargetFiles {
    /// Opens the root directories of these processes.
    pub fn of(processes: &[Arc<Process>]) -> Self {
        Self(processes.iter().filter_map(|p| Root::of(p).ok()).collect())
    }
}

impl DebugFiles for TargetFiles {
    fn open(&self, path: &Path) -> io::Result<File> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for root in &self.0 {
            match root.open_file(path) {
                Ok(file) => return Ok(file),
                Err(e) => last = e,
            }
        }
        let plain = !path.components().any(|c| c == Component::ParentDir);
        if plain && path.starts_with(HOST_DEBUG) {
            return Root::own()?.open_file(path).map_err(|_| last);
        }
        Err(last)
    }

    fn map(&self, file: &File) -> Result<Arc<ElfImage>, ElfError> {
        let bytes = ImageBytes::map(file)?;
        // Parsing reads the file, so the SIGBUS guard must be registered before.
        let parsing = sigbus::Registration::new(bytes.as_ptr_range());
        let image = Arc::new(ElfImage::parse(bytes)?);
        // Fails only beyond tens of thousands of files.
        let _ = sigbus::guard(&image);
        drop(parsing);
        Ok(image)
    }

    fn by_build_id(&self, id: &[u8], accept: &mut dyn FnMut(PathBuf, io::Result<File>) -> bool) {
        let files = RootedFiles::new("/");
        for cache in debuginfod::caches() {
            let path = debuginfod::path_in(&cache, id);
            let file = files.open(&path);
            if accept(path, file) {
                return;
            }
        }
        if let Some(servers) = debuginfod::servers() {
            servers.fetch(id, accept);
        }
    }
}

//! Where the debug information of the targets' images is: in the targets' own roots, else where
//! our machine has it.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use host::sigbus;
use image::{ElfError, ElfImage, ImageBytes};
use process::{Process, Root};
use symbolize::{DebugFiles, RootedFiles};

use crate::debuginfod;

/// The one folder of our own root that is looked into by a path that a target has a say in: debug
/// packages may be installed beside us and not in the target's container. It is the package
/// manager's, and a build id or checksum decides whether a file in it fits.
const HOST_DEBUG: &str = "/usr/lib/debug";

/// The files of the targets, as they see them. Their roots are held open, so that debug files
/// are found after the targets' end as well.
pub struct TargetFiles(pub Vec<Root>);

impl TargetFiles {
    /// Those of these processes.
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
        // Parsing reads the file already, so that the guard has to stand before.
        let parsing = sigbus::Registration::new(bytes.as_ptr_range());
        let image = Arc::new(ElfImage::parse(bytes)?);
        // Refused only beyond tens of thousands of files.
        let _ = sigbus::guard(&image);
        drop(parsing);
        Ok(image)
    }

    fn by_build_id(&self, id: &[u8], accept: &mut dyn FnMut(PathBuf, io::Result<File>) -> bool) {
        let files = RootedFiles::new("/");
        for cache in debuginfod::caches() {
            let path = debuginfod::place_in(&cache, id);
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

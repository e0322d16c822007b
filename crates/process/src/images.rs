//! Opens and maps the executable files of the profiled processes, each once.

use std::collections::HashMap;
use std::sync::Arc;

use image::{
    Avma, Bias, DecompressionBudget, ElfImage, FileId, FileOffset, ImageAbsence, ImageBytes,
    MappingKind, Memory as _, NewMapping,
};

use crate::open::{Aliases, Root, Stamp, open_row};
use crate::{MapRow, Process};
use host::sigbus;

/// Bounds the cost of a process that maps new files without end, below `vm.max_map_count` (65530),
/// which counts our own mappings.
const MAX_IMAGES: usize = 16_384;
/// A file can have any number of names.
const MAX_NAMES: usize = 65_536;
/// Maximum number of cached failures; beyond it the cache is cleared.
const MAX_ABSENCES: usize = 65_536;
/// The vDSO has 2 to 4 pages, and with its data pages fewer than 16.
const MAX_VDSO: u64 = 64 * 1024;
/// One per architecture mode and kernel; a machine has one or two.
const MAX_VDSOS: usize = 8;

type Found = Result<Arc<ElfImage>, ImageAbsence>;

/// A file as the kernel names it in maps and events. The path is a part of that: two btrfs
/// subvolumes may show the same device and inode for two files.
type KernelName = (FileId, Box<[u8]>);

/// A cache that returns the image of each mapping, or why there is none.
///
/// Images stay mapped as long as the cache lives, so that their inodes are not reused for other
/// files.
#[derive(Debug, Default)]
pub struct Images {
    /// By our own `fstat`: a file that was written to since counts as another one.
    by_stamp: HashMap<Stamp, Found>,
    /// The last image seen under a name, for events that arrive after their process has exited.
    by_name: HashMap<KernelName, Arc<ElfImage>>,
    /// By PID and start time too: one process may reach a file that another cannot.
    absent: HashMap<((i32, u64), KernelName), ImageAbsence>,
    aliases: Aliases,
    vdsos: Vec<Arc<ElfImage>>,
    /// Our own root and that of the first process seen. They lead to the files of processes that
    /// have exited or run in a chroot, whose paths the kernel gives as we see them.
    other_roots: Vec<Root>,
    unguarded: usize,
    /// For the compressed sections of all images.
    decompression: Arc<DecompressionBudget>,
}

impl Images {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many different images are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_stamp.values().filter(|f| f.is_ok()).count() + self.vdsos.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Images that [`sigbus`] does not protect, so that truncating the file could kill us. 0 unless
    /// tens of thousands are held.
    #[must_use]
    pub fn unguarded(&self) -> usize {
        self.unguarded
    }

    /// Returns the mapping of a row with its image, for [`image::AddressSpace::insert`].
    ///
    /// `process` is `None` for an event whose process has exited already. Then a file has an
    /// image only if it is already known or still exists under that path in our root or the first
    /// process'.
    pub fn resolve(&mut self, process: Option<&Process>, row: &MapRow) -> NewMapping {
        let kind = row.kind();
        let offset = if kind == MappingKind::Vdso { FileOffset(0) } else { row.offset };
        let image = match kind {
            MappingKind::File => self.of_file(process, row),
            MappingKind::Vdso => self.of_vdso(process, row),
            MappingKind::Vsyscall | MappingKind::Anonymous => Err(ImageAbsence::Anonymous),
        };
        let image = image.and_then(|image| place(image, row.start, offset, row.end));
        NewMapping {
            start: row.start,
            end: row.end,
            offset,
            name: String::from_utf8_lossy(&row.path).into(),
            file: row.file_id(),
            kind,
            image,
        }
    }

    fn of_file(&mut self, process: Option<&Process>, row: &MapRow) -> Found {
        let name: KernelName = (row.file, row.path.clone());
        let who = process.map_or((0, 0), |p| (p.pid(), p.start_time()));
        let absent_key = (who, name);
        if let Some(absence) = self.absent.get(&absent_key) {
            return Err(absence.clone());
        }
        if self.other_roots.is_empty() {
            let own = Root::own().ok();
            self.other_roots.extend(own.into_iter().chain(process.and_then(|p| Root::of(p).ok())));
        }
        let found = match open_row(process, &self.other_roots, row, &mut self.aliases) {
            Ok((file, stamp)) => self.of_opened(&file, stamp),
            Err(absence) => match self.by_name.get(&absent_key.1) {
                Some(image) => return Ok(Arc::clone(image)),
                None => Err(absence),
            },
        };
        log(&absent_key, &found);
        match &found {
            Ok(image) => {
                if self.by_name.len() >= MAX_NAMES {
                    self.by_name.clear();
                }
                self.by_name.insert(absent_key.1, Arc::clone(image));
            }
            Err(absence) => {
                if self.absent.len() >= MAX_ABSENCES {
                    self.absent.clear();
                }
                self.absent.insert(absent_key, absence.clone());
            }
        }
        found
    }

    fn of_opened(&mut self, file: &std::fs::File, stamp: Stamp) -> Found {
        if let Some(known) = self.by_stamp.get(&stamp) {
            return known.clone();
        }
        if self.by_stamp.len() >= MAX_IMAGES {
            let text = "more than 16384 different files are mapped";
            return Err(ImageAbsence::Unopened(text.into()));
        }
        let found = self.map(file);
        self.by_stamp.insert(stamp, found.clone());
        found
    }

    fn map(&mut self, file: &std::fs::File) -> Found {
        let refused = |e: &dyn std::fmt::Display| ImageAbsence::NotElf(e.to_string().into());
        let bytes = ImageBytes::map(file).map_err(|e| refused(&e))?;
        // Parsing reads the file: the protection has to come first.
        let parsing = sigbus::Registration::new(bytes.as_ptr_range());
        let image = Arc::new(ElfImage::parse(bytes).map_err(|e| refused(&e))?);
        image.share_budget(&self.decompression);
        if sigbus::guard(&image).is_err() {
            self.unguarded += 1;
        }
        drop(parsing);
        Ok(image)
    }

    fn of_vdso(&mut self, process: Option<&Process>, row: &MapRow) -> Found {
        let unopened = |e: &dyn std::fmt::Display| ImageAbsence::Unopened(e.to_string().into());
        let len = row.end.0.saturating_sub(row.start.0);
        if len > MAX_VDSO {
            return Err(unopened(&"the vDSO is larger than 64 KiB"));
        }
        let process = process.ok_or_else(|| unopened(&"the process has exited"))?;
        let memory = process.memory().map_err(|e| unopened(&e))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        memory.read(row.start, &mut bytes).map_err(|e| unopened(&e))?;
        if let Some(known) = self.vdsos.iter().find(|v| v.bytes() == bytes) {
            return Ok(Arc::clone(known));
        }
        if self.vdsos.len() >= MAX_VDSOS {
            return Err(unopened(&"more than 8 different vDSOs are mapped"));
        }
        let image = ElfImage::parse(ImageBytes::Owned(bytes));
        let image = Arc::new(image.map_err(|e| ImageAbsence::NotElf(e.to_string().into()))?);
        self.vdsos.push(Arc::clone(&image));
        Ok(image)
    }
}

/// The result is cached per file, including failures, so each file is logged once.
fn log(((pid, _), (_, path)): &((i32, u64), KernelName), found: &Found) {
    let path = String::from_utf8_lossy(path);
    match found {
        Ok(image) => tracing::trace!(pid, %path, bytes = image.bytes().len(), "image opened"),
        Err(absence) => tracing::debug!(pid, %path, ?absence, "image not opened"),
    }
}

fn place(
    image: Arc<ElfImage>,
    start: Avma,
    offset: FileOffset,
    end: Avma,
) -> Result<(Arc<ElfImage>, Bias), ImageAbsence> {
    let len = end.0.saturating_sub(start.0);
    let bias = image.bias_of_mapping(start, offset, len).ok_or(ImageAbsence::NoSegment)?;
    Ok((image, bias))
}

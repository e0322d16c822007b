//! Looks up the functions at code addresses of a running process, without a recording.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregate::clock::monotonic_now;
use aggregate::ids::{FrameKey, Place};
use aggregate::processes::Processes;
use assemble::debugfiles::TargetFiles;
use assemble::symbols::{FrameContext, Namer};
use gopclntab::LineTable;
use image::{Avma, ElfImage, Mapping, MappingId, Svma};
use process::{Process, Root};

/// The first address of the kernel's half of the address space, on both x86-64 and aarch64.
const KERNEL_HALF: u64 = 1 << 63;

/// Addresses with the mappings that contain them.
struct Located {
    frames: Vec<FrameKey>,
    mappings: BTreeMap<MappingId, Arc<Mapping>>,
}

fn locate(process: &Arc<Process>, addresses: &[u64]) -> Located {
    let mut processes = Processes::new(false);
    processes.add_root(process.clone());
    processes.refresh_maps(process, monotonic_now());
    let space = processes.get(process.pid()).map(|tracked| &tracked.space);
    let mut mappings = BTreeMap::new();
    let mut frames = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let address = Avma(address);
        let place = if address.0 >= KERNEL_HALF {
            Place::Kernel
        } else if let Some(mapping) = space.and_then(|s| s.find(address)) {
            mappings.entry(mapping.id).or_insert_with(|| mapping.clone());
            Place::User(mapping.id)
        } else {
            Place::Unmapped
        };
        frames.push(FrameKey { place, address });
    }
    Located { frames, mappings }
}

/// The names of the functions that contain `addresses` (run-time addresses), in the same order;
/// `None` if the name is unknown. Inlined calls are not resolved: the name is that of the physical
/// function, as the linker knows it.
///
/// The caller bounds the number of addresses.
#[must_use]
pub fn function_names(process: &Arc<Process>, addresses: &[u64]) -> Vec<Option<Arc<str>>> {
    let Located { frames, mappings } = locate(process, addresses);
    let files = TargetFiles(Root::of(process).ok().into_iter().collect());
    let context = FrameContext { mappings: &mappings, markers: &[], runtimes: None };
    let (resolved, _) = Namer::default().name(&frames, context, &files);
    let named = resolved.into_iter().zip(&frames).map(|(mut r, frame)| {
        let known = frame.place != Place::Unmapped && !r.nameless;
        r.functions.pop().filter(|_| known).map(|f| f.name)
    });
    named.collect()
}

/// An image and the addresses to look up in it, each with its index in the list.
type Batch<'a> = (&'a Arc<ElfImage>, Vec<(usize, Svma)>);

/// The start addresses of the functions that contain `addresses` (all run-time addresses), in the
/// same order; `None` if the start is unknown.
///
/// The caller bounds the number of addresses.
#[must_use]
pub fn function_starts(process: &Arc<Process>, addresses: &[u64]) -> Vec<Option<u64>> {
    let Located { frames, mappings } = locate(process, addresses);
    let mut by_image: BTreeMap<*const ElfImage, Batch<'_>> = BTreeMap::new();
    for (i, frame) in frames.iter().enumerate() {
        let Place::User(id) = frame.place else { continue };
        let found = mappings.get(&id).and_then(|m| m.image_at(frame.address));
        let Some((image, svma)) = found else { continue };
        let batch = by_image.entry(Arc::as_ptr(image)).or_insert((image, Vec::new()));
        batch.1.push((i, svma));
    }
    let mut starts = vec![None; addresses.len()];
    for (image, wanted) in by_image.values() {
        let addresses: Vec<Svma> = wanted.iter().map(|(_, svma)| *svma).collect();
        for ((i, svma), start) in wanted.iter().zip(starts_in(image, &addresses)) {
            let into = start.and_then(|start| svma.0.checked_sub(start.0));
            starts[*i] = into.and_then(|into| frames[*i].address.0.checked_sub(into));
        }
    }
    starts
}

/// Looks up function starts in Go's line table if there is one, or else in the call frame
/// information.
fn starts_in(image: &Arc<ElfImage>, addresses: &[Svma]) -> Vec<Option<Svma>> {
    let table = gopclntab::is_go(image).then(|| LineTable::from_image(image).ok()).flatten();
    let by_frames = unwind::function_starts(image, addresses);
    let both = addresses.iter().zip(by_frames);
    let start = |(svma, by_frames): (&Svma, Option<Svma>)| {
        table.as_ref().and_then(|t| t.function_at(*svma)).map(|f| f.entry()).or(by_frames)
    };
    both.map(start).collect()
}

//! Names of code addresses in a process as it is now, without a recording.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::Avma;
use target::{Process, Root};

use crate::clock::monotonic_now;
use crate::jit::Jit;
use crate::processes::Processes;
use crate::python::Python;
use crate::stacks::{FrameKey, Place};
use crate::symbols::{self, TargetFiles};

/// The first address of the kernel's half, on x86-64 and aarch64 alike.
const KERNEL_HALF: u64 = 1 << 63;

/// The functions at `addresses`, in their order; `None` where nothing is known. Calls that were
/// inlined there are not told apart: it is the function that the linker knows.
///
/// The caller bounds the number of addresses.
#[must_use]
pub fn function_names(process: &Arc<Process>, addresses: &[u64]) -> Vec<Option<Arc<str>>> {
    let mut processes = Processes::new(false);
    processes.add_root(process.clone());
    processes.refresh_maps(process, monotonic_now());
    let Some(tracked) = processes.get(process.pid()) else { return vec![None; addresses.len()] };
    let mut mappings = BTreeMap::new();
    let mut frames = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let address = Avma(address);
        let place = if address.0 >= KERNEL_HALF {
            Place::Kernel
        } else if let Some(mapping) = tracked.space.find(address) {
            mappings.entry(mapping.id).or_insert_with(|| mapping.clone());
            Place::User(mapping.id)
        } else {
            Place::Unmapped
        };
        frames.push(FrameKey { place, address });
    }
    let files = TargetFiles(Root::of(process).ok().into_iter().collect());
    let (resolved, _) =
        symbols::resolve(&frames, &[], &mappings, &Jit::default(), &Python::default(), &files);
    let named = resolved.into_iter().zip(&frames).map(|(mut r, frame)| {
        let known = frame.place != Place::Unmapped && !r.nameless;
        r.functions.pop().filter(|_| known).map(|f| f.name)
    });
    named.collect()
}

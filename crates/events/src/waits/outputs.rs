//! Opens the perf events that the BPF programs write to, one per CPU, with their rings.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use super::{WaitError, WaitOptions, syscall};
use crate::attr::{self, OUTPUT_SAMPLE_TYPE};
use crate::bpf::{BpfStep, Loaded};
use crate::record::Layout;
use crate::ringset::RingSet;
use crate::sampler::{MIN_RING_BYTES, map_rings, open_event, redirect};

/// The events of all CPUs. Their rings record threads and mappings as soon as they are open, before
/// [`super::WaitSampler::attach`] loads the programs.
pub struct WaitOutputs {
    pub(super) options: WaitOptions,
    cpus: Vec<u32>,
    /// The event of each CPU that owns its ring.
    leaders: Vec<OwnedFd>,
    /// The events that the programs write to now, if these are not the leaders.
    grown: Vec<OwnedFd>,
}

impl WaitOutputs {
    /// Opens the events.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn open(cpus: &[u32], options: &WaitOptions) -> Result<(Self, RingSet), WaitError> {
        let leaders = open_events(cpus, options.stack_bytes, true)?;
        let mut ring_bytes = options.ring_bytes.next_power_of_two().max(MIN_RING_BYTES);
        let rings = map_rings(&leaders, &mut ring_bytes)?;
        let layout = Layout::new(OUTPUT_SAMPLE_TYPE, options.stack_bytes);
        let (options, cpus) = (options.clone(), cpus.to_vec());
        let this = Self { options, cpus, leaders, grown: Vec::new() };
        Ok((this, RingSet::new(rings, layout)))
    }

    /// Makes the programs of this object write to the events.
    pub(super) fn publish(&self, object: &Loaded) -> Result<(), WaitError> {
        publish(&self.cpus, &self.leaders, object)
    }

    /// Makes the programs write to new events that copy `stack_bytes` of stack, into the same
    /// rings.
    pub(super) fn grow_stack(
        &mut self,
        object: &Loaded,
        rings: &mut RingSet,
        stack_bytes: u32,
    ) -> Result<(), WaitError> {
        let grown = open_events(&self.cpus, stack_bytes, false)?;
        for ((fd, leader), &cpu) in grown.iter().zip(&self.leaders).zip(&self.cpus) {
            redirect(fd.as_fd(), leader.as_fd())
                .map_err(|source| WaitError::Event { cpu, source })?;
        }
        rings.set_stack_bytes(stack_bytes);
        publish(&self.cpus, &grown, object)?;
        self.grown = grown;
        Ok(())
    }
}

fn open_events(cpus: &[u32], stack_bytes: u32, side_band: bool) -> Result<Vec<OwnedFd>, WaitError> {
    let open = |&cpu: &u32| {
        open_event(&mut attr::build_output(stack_bytes, side_band), -1, cpu)
            .map_err(|source| WaitError::Event { cpu, source })
    };
    cpus.iter().map(open).collect()
}

fn publish(cpus: &[u32], events: &[OwnedFd], object: &Loaded) -> Result<(), WaitError> {
    let map = object.map_fd("events")?;
    for (fd, &cpu) in events.iter().zip(cpus) {
        syscall::set_element(map, cpu, fd.as_raw_fd().cast_unsigned())
            .map_err(object.failed(BpfStep::Map("events")))?;
    }
    Ok(())
}

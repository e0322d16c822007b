//! Provides the offsets with which BPF reads the goroutine of a CPU sample.

use image::{Avma, Memory};

use crate::{ReadError, Runtime, labels};

/// Byte offsets of the fields that lead from a thread to its goroutine, to its suspended stacks and
/// to its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the runtime's fields")]
pub struct SampleLayout {
    pub m_procid: u64,
    pub m_g0: u64,
    pub m_gsignal: u64,
    pub m_curg: u64,
    pub m_vdso_sp: u64,
    pub m_vdso_pc: u64,
    pub g_sched_sp: u64,
    pub g_sched_pc: u64,
    pub g_goid: u64,
    pub g_labels: u64,
    /// Whether labels are a map (before Go 1.24) instead of a slice.
    pub labels_are_a_map: bool,
}

impl Runtime {
    /// The offsets for this program's Go version.
    #[must_use]
    pub fn sample_layout(&self) -> SampleLayout {
        let l = &self.layout;
        SampleLayout {
            m_procid: l.m_procid,
            m_g0: l.m_g0,
            m_gsignal: l.m_gsignal,
            m_curg: l.m_curg,
            m_vdso_sp: l.m_vdso_sp,
            m_vdso_pc: l.m_vdso_pc,
            g_sched_sp: l.g_sched_sp,
            g_sched_pc: l.g_sched_pc,
            g_goid: l.g_goid,
            g_labels: l.g_labels,
            labels_are_a_map: l.labels_are_a_map(),
        }
    }

    /// Whether the program was linked with cgo, so that C code can call into Go.
    #[must_use]
    pub fn has_cgo(&self) -> bool {
        self.table.function_named("crosscall2").is_some()
    }

    /// Lists the started threads: `m.procid`, which is the thread ID in the target's PID namespace,
    /// and the address of the `m`.
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found, cannot be read or does not end.
    pub fn started_threads(&self, memory: &dyn Memory) -> Result<Vec<(u64, Avma)>, ReadError> {
        let mut threads = self
            .each_m(memory, |m| Ok((memory.read_u64(m.wrapping_add(self.layout.m_procid))?, m)))?;
        // A thread that has not started has no id.
        threads.retain(|(procid, _)| *procid != 0);
        Ok(threads)
    }

    /// Reads the labels at `pointer`, a value of `g.labels`: sorted by key, and whether some are
    /// missing or truncated.
    #[must_use]
    pub fn labels_at(&self, memory: &dyn Memory, pointer: Avma) -> (Vec<(String, String)>, bool) {
        labels::read(memory, &self.layout, pointer.0)
    }
}

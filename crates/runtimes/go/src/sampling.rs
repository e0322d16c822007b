//! What has to be known to read a goroutine in the moment of a CPU sample.

use image::{Avma, Memory};

use crate::{ReadError, Runtime, Variable, labels};

/// More threads than this are no Go program's.
const MAX_THREADS: usize = 1 << 20;

/// Where the fields lie that tell a thread's goroutine, the stacks that it has left, and its labels;
/// offsets in bytes.
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
    /// Labels are a map (before Go 1.24), not a slice.
    pub labels_are_a_map: bool,
}

impl Runtime {
    /// See [`SampleLayout`].
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

    /// Whether C code can call into this program: it was linked with cgo.
    #[must_use]
    pub fn has_cgo(&self) -> bool {
        self.table.function_named("crosscall2").is_some()
    }

    /// The address of each thread's `m`, with `m.procid`: the thread's id in the target's own pid
    /// namespace. Those that have not begun yet have none and are left out.
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found, read, or has no end.
    pub fn machines(&self, memory: &dyn Memory) -> Result<Vec<(u64, Avma)>, ReadError> {
        let layout = &self.layout;
        let mut next = memory.read_u64(self.address(Variable::Allm)?)?;
        let mut machines = Vec::new();
        while next != 0 {
            if machines.len() >= MAX_THREADS {
                return Err(ReadError::Implausible("a list of threads without end"));
            }
            let m = Avma(next);
            machines.push((memory.read_u64(m.wrapping_add(layout.m_procid))?, m));
            next = memory.read_u64(m.wrapping_add(layout.m_alllink))?;
        }
        machines.retain(|(procid, _)| *procid != 0);
        Ok(machines)
    }

    /// The labels that `g.labels` pointed to, sorted by key, and whether some are missing or cut.
    #[must_use]
    pub fn labels_at(&self, memory: &dyn Memory, pointer: Avma) -> (Vec<(String, String)>, bool) {
        labels::read(memory, &self.layout, pointer.0)
    }
}

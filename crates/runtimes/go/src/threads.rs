//! Lists the runtime's threads (`runtime.allm`) and the stacks that created them.

use image::{Avma, Memory};

use crate::disjoint::Disjoint;
use crate::raw::words;
use crate::{ReadError, Runtime, Variable};

/// The kernel's limit on the number of threads.
const MAX_THREADS: usize = 4 << 20;
/// `m.createstack` is `[32]uintptr`.
const STACK: usize = 32;

/// A thread of the runtime (`m`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadCreation {
    /// The address of the `m`.
    pub m: Avma,
    /// The kernel thread ID in the target's PID namespace. 0 until the thread has started.
    pub tid: u64,
    /// The runtime's own number of the thread (`m.id`).
    pub id: u64,
    /// The return addresses of the stack that created the thread, innermost first. Empty for most
    /// threads: the runtime records a stack only for creation from a goroutine.
    pub stack: Vec<Avma>,
}

impl Runtime {
    /// Lists all threads, newest first (`threadCreateProfileInternal` in runtime/mprof.go).
    ///
    /// # Errors
    /// [`ReadError`] if the list is not found, cannot be read or does not end.
    pub fn threads(&self, memory: &dyn Memory) -> Result<Vec<ThreadCreation>, ReadError> {
        let layout = &self.layout;
        self.each_m(memory, |m| {
            let stack = words(memory, m.wrapping_add(layout.m_createstack), STACK)?;
            Ok(ThreadCreation {
                m,
                tid: memory.read_u64(m.wrapping_add(layout.m_procid))?,
                id: memory.read_u64(m.wrapping_add(layout.m_id))?,
                stack: stack.into_iter().take_while(|pc| *pc != 0).map(Avma).collect(),
            })
        })
    }

    /// Calls `read` for every `m`, newest first. A list that leads to the same memory twice is
    /// rejected: it is a cycle, or none of the runtime's.
    pub(crate) fn each_m<T>(
        &self,
        memory: &dyn Memory,
        read: impl Fn(Avma) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        let mut next = memory.read_u64(self.address(Variable::Allm)?)?;
        let size = self.layout.m_size();
        let (mut found, mut seen) = (Vec::new(), Disjoint::default());
        while next != 0 {
            if !seen.add(next, next.saturating_add(size)) {
                return Err(ReadError::Implausible(
                    "the list of threads leads to the same memory twice",
                ));
            }
            if found.len() >= MAX_THREADS {
                return Err(ReadError::Implausible("the list of threads does not end"));
            }
            let m = Avma(next);
            found.push(read(m)?);
            next = memory.read_u64(m.wrapping_add(self.layout.m_alllink))?;
        }
        Ok(found)
    }
}

//! Threads and what created them.

use std::collections::HashSet;

use image::{Avma, Memory};

use crate::raw::words;
use crate::{ReadError, Runtime, Variable};

/// The kernel allows 4 million threads.
const MAX_THREADS: usize = 4 << 20;
/// `m.createstack` is `[32]uintptr`.
const STACK: usize = 32;

/// A thread that the runtime knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadCreation {
    /// The address of its `m`.
    pub m: Avma,
    /// Its kernel thread id in the target's own pid namespace; 0 before it has begun.
    pub tid: u64,
    /// `m.id`.
    pub id: u64,
    /// The return addresses where it was created. Empty for most threads: the runtime notes only
    /// those that are created from a goroutine.
    pub stack: Vec<Avma>,
}

impl Runtime {
    /// All threads, newest first (`threadCreateProfileInternal` in runtime/mprof.go).
    ///
    /// # Errors
    /// [`ReadError`] when the list cannot be found, read, or has no end.
    pub fn threads(&self, memory: &dyn Memory) -> Result<Vec<ThreadCreation>, ReadError> {
        let layout = &self.layout;
        let mut next = memory.read_u64(self.address(Variable::Allm)?)?;
        let (mut threads, mut seen) = (Vec::new(), HashSet::new());
        while next != 0 {
            if !seen.insert(next) || threads.len() >= MAX_THREADS {
                return Err(ReadError::Implausible("a list of threads without end"));
            }
            let m = Avma(next);
            let stack = words(memory, m.wrapping_add(layout.m_createstack), STACK)?;
            threads.push(ThreadCreation {
                m,
                tid: memory.read_u64(m.wrapping_add(layout.m_procid))?,
                id: memory.read_u64(m.wrapping_add(layout.m_id))?,
                stack: stack.into_iter().take_while(|pc| *pc != 0).map(Avma).collect(),
            });
            next = memory.read_u64(m.wrapping_add(layout.m_alllink))?;
        }
        Ok(threads)
    }
}

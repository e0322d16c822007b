//! Finds the owners of the locks that threads wait for, and deadlocks: threads that wait for each
//! other in a cycle.
//!
//! glibc's `pthread_mutex_t` (struct_mutex.h) begins with `int __lock; unsigned __count; int
//! __owner`. A thread that waits for such a mutex is in futex(2) on `__lock` with the expected
//! value 2, which means "locked, with waiters" (lowlevellock.h). Other uses of futex(2) may also
//! expect 2, but they have no thread ID of this process in the place of `__owner`; then no owner is
//! reported. A thread that waits for a priority-inheriting mutex is in `FUTEX_LOCK_PI` on a word
//! that contains the owner itself (futex(2)).

use std::collections::BTreeMap;

use super::snapshot::ThreadCopy;

const FUTEX_CMD_MASK: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI2: u64 = 13;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// The value of `__lock` if the mutex is held and has waiters.
const CONTENDED: u64 = 2;

/// A mutex that a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldLock {
    /// The mutex' address in the target.
    pub address: u64,
    /// The ID of the thread that holds it, in our PID namespace.
    pub owner: i32,
}

/// Finds the mutex that each waiting thread waits for. `by_own_number` translates thread IDs from
/// the program's PID namespace to ours.
pub(super) fn find(
    threads: &[ThreadCopy],
    by_own_number: impl Fn(i32) -> Option<i32>,
) -> BTreeMap<i32, HeldLock> {
    let held = threads.iter().filter_map(|t| {
        let (address, own) = owner(t)?;
        let owner = by_own_number(own)?;
        // If the owner has exited or belongs to another process, we misread the word.
        threads.iter().any(|o| o.tid == owner).then_some((t.tid, HeldLock { address, owner }))
    });
    held.collect()
}

fn owner(thread: &ThreadCopy) -> Option<(u64, i32)> {
    let call = thread.wait.as_ref()?.call?;
    let lock = thread.lock?;
    let word = |at: usize| {
        let bytes: [u8; 4] = lock[at..at + 4].try_into().unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    let [address, operation, expected, ..] = call.arguments;
    let owner = match operation & FUTEX_CMD_MASK {
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => word(0) & FUTEX_TID_MASK,
        FUTEX_WAIT | FUTEX_WAIT_BITSET if expected == CONTENDED && word(0) != 0 => word(8),
        _ => return None,
    };
    i32::try_from(owner).ok().filter(|o| *o > 0).map(|o| (address, o))
}

/// Finds the cycles of threads that wait for each other. Each starts at its smallest thread ID.
pub(super) fn cycles(held: &BTreeMap<i32, HeldLock>) -> Vec<Vec<i32>> {
    let mut cycles = Vec::new();
    let mut done = std::collections::BTreeSet::new();
    for &start in held.keys() {
        let mut path = Vec::new();
        let mut at = start;
        while done.insert(at) {
            path.push(at);
            let Some(next) = held.get(&at) else { break };
            at = next.owner;
        }
        // The walk has returned to a thread on its own path: the path from there on is a cycle.
        if let Some(begin) = path.iter().position(|t| *t == at)
            && held.contains_key(&at)
        {
            let mut cycle = path.split_off(begin);
            let least = (0..cycle.len()).min_by_key(|i| cycle[*i]).unwrap_or(0);
            cycle.rotate_left(least);
            cycles.push(cycle);
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(pairs: &[(i32, i32)]) -> BTreeMap<i32, HeldLock> {
        pairs.iter().map(|(t, owner)| (*t, HeldLock { address: 0, owner: *owner })).collect()
    }

    #[test]
    fn cycles_are_found_once_and_queues_are_not_cycles() {
        assert_eq!(cycles(&waits(&[(1, 2), (2, 3)])), Vec::<Vec<i32>>::new());
        assert_eq!(cycles(&waits(&[(1, 2), (2, 1), (3, 1)])), [vec![1, 2]]);
        assert_eq!(cycles(&waits(&[(3, 1), (4, 3), (1, 4)])), [vec![1, 4, 3]]);
        assert_eq!(cycles(&waits(&[(5, 5)])), [vec![5]], "one thread that locks a mutex twice");
        let two = waits(&[(1, 2), (2, 1), (8, 9), (9, 8), (7, 9)]);
        assert_eq!(cycles(&two), [vec![1, 2], vec![8, 9]]);
    }
}

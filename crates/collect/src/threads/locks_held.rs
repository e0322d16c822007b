//! Who holds the locks that threads wait for, and threads that wait for each other in a circle.
//!
//! glibc's `pthread_mutex_t` (struct_mutex.h) begins with `int __lock; unsigned __count; int
//! __owner`. A thread that waits for one is in futex(2) on `__lock`, where it expects 2, "locked,
//! and somebody waits" (lowlevellock.h). Other users of 2 have no thread id at that place, or that
//! of no thread: then nothing is said. A priority-inheriting mutex is waited for by `FUTEX_LOCK_PI`
//! on a word that is the owner itself (futex(2)).

use std::collections::BTreeMap;

use super::snapshot::ThreadCopy;

const FUTEX_CMD_MASK: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI2: u64 = 13;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// `__lock` of a mutex that is held and waited for.
const CONTENDED: u64 = 2;

/// A thread's wait for a mutex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Where the mutex lies.
    pub address: u64,
    /// The thread that holds it, as we number threads.
    pub owner: i32,
}

/// What each waiting thread waits for. `by_own_number` translates the program's thread ids.
pub(super) fn find(
    threads: &[ThreadCopy],
    by_own_number: impl Fn(i32) -> Option<i32>,
) -> BTreeMap<i32, Held> {
    let held = threads.iter().filter_map(|t| {
        let (address, own) = owner(t)?;
        let owner = by_own_number(own)?;
        // One that has ended, or another process's, would be no news but a misreading.
        threads.iter().any(|o| o.tid == owner).then_some((t.tid, Held { address, owner }))
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

/// The circles of threads that wait for each other, each from its smallest thread id on.
pub(super) fn circles(held: &BTreeMap<i32, Held>) -> Vec<Vec<i32>> {
    let mut circles = Vec::new();
    let mut done = std::collections::BTreeSet::new();
    for &start in held.keys() {
        let mut path = Vec::new();
        let mut at = start;
        while done.insert(at) {
            path.push(at);
            let Some(next) = held.get(&at) else { break };
            at = next.owner;
        }
        // Back on the way that led here: the rest of it is a circle.
        if let Some(begin) = path.iter().position(|t| *t == at)
            && held.contains_key(&at)
        {
            let mut circle = path.split_off(begin);
            let least = (0..circle.len()).min_by_key(|i| circle[*i]).unwrap_or(0);
            circle.rotate_left(least);
            circles.push(circle);
        }
    }
    circles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(pairs: &[(i32, i32)]) -> BTreeMap<i32, Held> {
        pairs.iter().map(|(t, owner)| (*t, Held { address: 0, owner: *owner })).collect()
    }

    #[test]
    fn circles_are_found_once_and_queues_are_none() {
        assert_eq!(circles(&waits(&[(1, 2), (2, 3)])), Vec::<Vec<i32>>::new());
        assert_eq!(circles(&waits(&[(1, 2), (2, 1), (3, 1)])), [vec![1, 2]]);
        assert_eq!(circles(&waits(&[(3, 1), (4, 3), (1, 4)])), [vec![1, 4, 3]]);
        assert_eq!(circles(&waits(&[(5, 5)])), [vec![5]], "a mutex that is locked twice");
        let two = waits(&[(1, 2), (2, 1), (8, 9), (9, 8), (7, 9)]);
        assert_eq!(circles(&two), [vec![1, 2], vec![8, 9]]);
    }
}

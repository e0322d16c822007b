//! Limits the total memory of recordings: `--max-memory`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The memory of all running recordings.
///
/// Counts our own anonymous memory beyond what we had while nothing was being recorded: allocators
/// keep some freed memory, and mapped files can be evicted.
pub struct Budget {
    limit: u64,
    running: AtomicUsize,
    idle: AtomicU64,
    /// Serializes the beginnings and ends of recordings.
    turn: Mutex<()>,
    used: fn() -> Option<u64>,
}

/// A recording that is counted until it is dropped.
pub struct BudgetGuard(Arc<Budget>);

/// The limit is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// In MiB.
    pub used: u64,
    /// In MiB.
    pub limit: u64,
}

impl Budget {
    /// Creates a budget of this many bytes.
    pub fn new(limit: u64) -> Self {
        Self::by(limit, anonymous)
    }

    fn by(limit: u64, used: fn() -> Option<u64>) -> Self {
        let (running, idle) = Default::default();
        Self { limit, running, idle, turn: Mutex::default(), used }
    }

    /// Counts a new recording, if the budget allows one.
    pub fn begin(self: &Arc<Self>) -> Result<BudgetGuard, Exceeded> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.running.load(Ordering::Relaxed) == 0 {
            self.idle.store((self.used)().unwrap_or(0), Ordering::Relaxed);
        } else {
            self.check()?;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(BudgetGuard(self.clone()))
    }

    /// Checks that the running recordings stay within the limit.
    pub fn check(&self) -> Result<(), Exceeded> {
        if self.running.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        // If it is unknown, only the number of recordings is limited.
        let used = (self.used)().unwrap_or(0);
        let used = used.saturating_sub(self.idle.load(Ordering::Relaxed));
        if used <= self.limit {
            return Ok(());
        }
        Err(Exceeded { used: used >> 20, limit: self.limit >> 20 })
    }
}

impl Drop for BudgetGuard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Our anonymous memory, in bytes.
fn anonymous() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map(str::parse::<u64>);
    let (resident, of_files) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    resident.saturating_sub(of_files).checked_mul(u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    static USED: AtomicU64 = AtomicU64::new(0);

    fn use_mib(mib: u64) {
        USED.store(mib << 20, Ordering::Relaxed);
    }

    #[test]
    fn memory_of_recordings_counts_and_no_other() {
        let budget = Arc::new(Budget::by(100 << 20, || Some(USED.load(Ordering::Relaxed))));
        use_mib(500);
        let first = budget.begin().unwrap_or_else(|_| panic!("what was there before is free"));
        use_mib(600);
        let second = budget.begin().unwrap_or_else(|_| panic!("within the limit"));
        use_mib(601);
        assert_eq!(budget.check(), Err(Exceeded { used: 101, limit: 100 }));
        assert!(budget.begin().is_err());
        drop(first);
        assert!(budget.begin().is_err(), "one still runs");
        drop(second);
        assert_eq!(budget.check(), Ok(()));
        assert!(budget.begin().is_ok(), "what is kept now is no recording's");
    }

    #[test]
    fn ours_is_known() {
        let before = anonymous().expect("it can be read");
        let block = vec![1_u8; 64 << 20];
        let after = anonymous().expect("it can be read");
        assert!(after >= before + (48 << 20) && block.len() > 1, "{before} {after}");
    }
}

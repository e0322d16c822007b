//! Decides which futex waits are waits for a lock.
//!
//! The kernel cannot tell a lock from a condition variable, a semaphore or a parked thread: all of
//! them wait for a futex. The *waiter's* stack can tell: the C library exports `pthread_mutex_lock`
//! and `pthread_cond_wait` even when it is stripped, and Rust's standard library, parking_lot and
//! others have separate functions for the slow path. The waker's stack cannot tell, because
//! unlocking is often inlined.

use aggregate::ids::{NodeIndex, Place};
use aggregate::recorder::Recorder;
use assemble::conclude::Named;

/// What a futex wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A mutex or a read-write lock.
    Lock,
    /// A lock whose waiters each wait for their own condition variable, which the unlocking thread
    /// signals.
    LockByCondvar,
    /// Anything else.
    Other,
    /// Unknown: code without names calls futex(2) itself.
    Nameless,
}

/// A wait is recognized by this many frames, counted from the leaf.
const MAX_FRAMES: usize = 16;
/// This many frames above a lock's are searched for a condition variable that relocks its mutex.
const CONDVAR_FRAMES: usize = 4;

/// Whether the innermost function of a waker's stack shows that it does not release a lock. This
/// only supplements the waiter's stack, because unlocking is often inlined.
pub(super) fn unlocks_nothing(innermost: Option<&str>) -> bool {
    const POSTS: &[&str] = &["sem_post", "pthread_cond_", "barrier_wait", "pthread_exit"];
    innermost.is_some_and(|name| is_one_of(name, POSTS))
}

/// Slow paths of locks, as parts of function names.
const LOCKS: &[&str] = &[
    // glibc, musl
    "pthread_mutex_lock",
    "pthread_mutex_timedlock",
    "pthread_mutex_clocklock",
    "pthread_mutex_cond_lock",
    "lll_lock_wait",
    "lll_timedlock_wait",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_wrlock",
    "pthread_rwlock_timedrdlock",
    "pthread_rwlock_timedwrlock",
    "pthread_rwlock_clockrdlock",
    "pthread_rwlock_clockwrlock",
    "mtx_lock",
    "mtx_timedlock",
    // Rust's standard library
    "Mutex::lock_contended",
    "RwLock::read_contended",
    "RwLock::write_contended",
    "queue::RwLock::lock_contended",
    // parking_lot
    "RawMutex::lock_slow",
    "lock_exclusive_slow",
    "lock_shared_slow",
    "lock_upgradable_slow",
    "RawRwLock::upgrade_slow",
    // absl, tcmalloc, Qt, folly
    "Mutex::LockSlow",
    "SpinLock::SlowLock",
    "QBasicMutex::lockInternal",
    "folly::SharedMutexImpl",
    // MariaDB's InnoDB, which calls futex(2) itself
    "srw_mutex_impl::wait",
    "ssux_lock_impl::wr_wait",
    "ssux_lock_impl::rd_wait",
    "ssux_lock_impl::u_wait",
];

/// Functions that wait for a futex, but not for a lock, as parts of function names.
const OTHERS: &[&str] = &[
    "pthread_cond_",
    "cnd_wait",
    "cnd_timedwait",
    "condition_variable",
    "condvar::",
    "Condvar",
    "CondVar",
    "sem_wait",
    "sem_timedwait",
    "sem_clockwait",
    "new_sem_",
    "barrier_wait",
    "barrier::Barrier",
    "pthread_join",
    "timedjoin",
    "clockjoin",
    "pthread_once",
    "call_once",
    "once::futex",
    "thread_parking",
    "thread::park",
    "mpmc::",
    "mpsc::",
    "__platform_wait",
    "__atomic_wait",
    "__atomic_futex",
];

/// Locks whose waiters each wait for their own condition variable: Java's monitors (HotSpot).
const LOCKS_BY_CONDVAR: &[&str] = &["ObjectMonitor::EnterI", "ObjectMonitor::enter"];
/// Functions that enter such a lock again after waiting for a condition.
const CONDITIONS: &[&str] = &["ObjectMonitor::wait"];

/// musl's internal lock; the whole function name, not a part.
const MUSL_LOCK: &str = "__lock";

/// Functions that all of musl's waits go through, as prefixes.
const MUSL_WAITS: &[&str] = &["__timedwait", "__syscall_cp"];
/// The bit of a futex word that says that threads wait, in musl.
const MUSL_WAITERS: u32 = 1 << 31;

/// `FUTEX_LOCK_PI` and `FUTEX_LOCK_PI2`.
const PI: [u32; 2] = [6, 13];
/// `FUTEX_WAIT` and `FUTEX_WAIT_BITSET`.
const WAIT: [u32; 2] = [0, 9];
/// The futex word of a lock that is held and waited for, in glibc and in Rust.
const CONTENDED: u32 = 2;

/// Classifies a wait by the waiter's functions, innermost first (`None` for a function without a
/// name), and by the operation and expected value of its futex.
///
/// A condition variable that waits for its mutex again counts as a condition variable, not a lock.
pub(super) fn classify<'a>(
    functions: impl Iterator<Item = Option<&'a str>>,
    futex: (u32, u32),
) -> Class {
    if PI.contains(&futex.0) {
        return Class::Lock;
    }
    let names: Vec<Option<&str>> = functions.take(MAX_FRAMES + CONDVAR_FRAMES).collect();
    for (i, name) in names.iter().take(MAX_FRAMES).enumerate() {
        let Some(name) = name.map(path) else { continue };
        if is_one_of(&name, OTHERS) {
            let above: Vec<_> = names.iter().skip(i + 1).flatten().map(|n| path(n)).collect();
            let any = |parts| above.iter().any(|n| is_one_of(n, parts));
            let lock = any(LOCKS_BY_CONDVAR) && !any(CONDITIONS);
            return if lock { Class::LockByCondvar } else { Class::Other };
        }
        if is_one_of(&name, LOCKS) || name == MUSL_LOCK {
            let above = names.iter().skip(i + 1).take(CONDVAR_FRAMES).flatten();
            let condvar = above.map(|n| path(n)).any(|n| is_condvar(&n));
            return if condvar { Class::Other } else { Class::Lock };
        }
    }
    // musl has no unwind tables: its stacks often end where it calls the kernel, and all its waits
    // look the same. The word of a lock holds its owner or readers, and this bit if threads wait;
    // that of a semaphore holds the bit alone (musl 1.2: src/thread/*.c).
    let in_musl = |name: &str| MUSL_WAITS.iter().any(|wait| name.starts_with(wait));
    if names.iter().flatten().any(|name| in_musl(name)) {
        let lock = futex.1 & MUSL_WAITERS != 0 && futex.1 != MUSL_WAITERS;
        return if lock { Class::Lock } else { Class::Other };
    }
    // A program without any names: only the futex is left to go by.
    let nameless = names.iter().take(3).all(Option::is_none);
    if nameless && WAIT.contains(&futex.0) && futex.1 == CONTENDED {
        return Class::Lock;
    }
    // The futex word cannot decide here: InnoDB's latches look like condition variables.
    match &names[..] {
        [Some("syscall"), None, ..] => Class::Nameless,
        _ => Class::Other,
    }
}

/// Replaces the names of an interpreted program's functions, which say nothing about locks.
const INTERPRETED: &str = "[interpreted]";

/// The functions of a user stack, innermost first, as many as [`classify`] reads.
pub(super) fn names<'a>(
    stack: NodeIndex,
    recorder: &Recorder,
    named: &'a Named,
) -> Vec<Option<&'a str>> {
    let mut names = Vec::new();
    for frame in recorder.tree.stack(stack).take(MAX_FRAMES + CONDVAR_FRAMES) {
        let resolved = &named.resolved[frame as usize];
        match recorder.tree.frames()[frame as usize].place {
            Place::Runtime { mapping: None, .. } => names.push(Some(INTERPRETED)),
            Place::Marker => names.push(None),
            _ if resolved.nameless || resolved.functions.is_empty() => names.push(None),
            _ => names.extend(resolved.functions.iter().map(|f| Some(&*f.name))),
        }
    }
    names
}

fn is_one_of(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| name.contains(part))
}

fn is_condvar(name: &str) -> bool {
    let parts = ["pthread_cond_", "cnd_wait", "cnd_timedwait", "condition_variable", "ondvar::"];
    is_one_of(name, &parts)
}

/// The path of a function without parameters and type arguments, which could mention locks that the
/// function has nothing to do with. `<a::Lock<T> as b::Raw>::lock::<U>(x)` gives `a::Lock::lock::`.
fn path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    let mut depth = 0_u32;
    let name = match name.split_once('(') {
        Some((before, _)) if !before.is_empty() => before,
        _ => name,
    };
    let (qualified, mut in_type) = match name.strip_prefix('<') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let mut skipped = false;
    for (i, c) in qualified.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            '>' if in_type => (in_type, skipped) = (false, false),
            ' ' if in_type && depth == 0 && qualified[i..].starts_with(" as ") => skipped = true,
            _ if depth == 0 && !skipped => path.push(c),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(class: Class, names: &[&str]) {
        let functions = names.iter().map(|n| (!n.is_empty()).then_some(*n));
        assert_eq!(classify(functions, (0, 1)), class, "{names:?}");
    }

    #[test]
    fn locks() {
        check(Class::Lock, &["__lll_lock_wait", "pthread_mutex_lock", "work"]);
        // Stripped: only exported functions have names.
        check(Class::Lock, &["", "pthread_mutex_lock", "std::mutex::lock()", "work"]);
        check(Class::Lock, &["", "", "pthread_rwlock_wrlock", "work"]);
        check(
            Class::Lock,
            &["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended", "app::work"],
        );
        check(
            Class::Lock,
            &[
                "syscall",
                "<parking_lot_core::thread_parker::imp::ThreadParker as ThreadParkerT>::park",
                "parking_lot_core::parking_lot::park",
                "parking_lot::raw_mutex::RawMutex::lock_slow",
            ],
        );
        check(
            Class::Lock,
            &["__syscall", "__timedwait_cp", "__timedwait", "pthread_mutex_timedlock"],
        );
        check(Class::Lock, &["__wait", "__lock", "free"]);
        check(
            Class::Lock,
            &["syscall", "<std::sys::sync::rwlock::futex::RwLock>::read_contended", "work"],
        );
    }

    #[test]
    fn latches() {
        check(Class::Lock, &["syscall", "srw_mutex_impl<true>::wait(unsigned int)", "mtr_commit"]);
        check(Class::Lock, &["syscall", "ssux_lock_impl<false>::rd_wait()", "buf_page_get"]);
    }

    #[test]
    fn not_locks() {
        check(Class::Other, &["__futex_abstimed_wait_common", "pthread_cond_wait", "work"]);
        check(Class::Other, &["", "pthread_cond_wait", "work"]);
        check(Class::Other, &["", "sem_wait"]);
        check(Class::Other, &["", "pthread_barrier_wait"]);
        check(Class::Other, &["", "", "pthread_join"]);
        check(Class::Other, &["syscall", "std::sys::sync::condvar::futex::Condvar::wait", "f"]);
        check(Class::Other, &["syscall", "std::sys::sync::thread_parking::futex::Parker::park"]);
        check(Class::Other, &["syscall", "std::sys::sync::once::futex::Once::call"]);
        check(Class::Other, &["syscall", "my_own_lock"]);
    }

    #[test]
    fn a_condition_variable_that_relocks_its_mutex_is_not_a_lock() {
        check(Class::Other, &["__lll_lock_wait", "__pthread_mutex_cond_lock", "pthread_cond_wait"]);
        check(
            Class::Other,
            &[
                "syscall",
                "std::sys::sync::mutex::futex::Mutex::lock_contended",
                "std::sys::sync::mutex::futex::Mutex::lock",
                "std::sys::sync::condvar::futex::Condvar::wait",
            ],
        );
        // A condition variable far above does not matter.
        check(Class::Lock, &["pthread_mutex_lock", "a", "b", "c", "d", "pthread_cond_wait"]);
    }

    #[test]
    fn monitors_of_java() {
        let park =
            ["__futex_abstimed_wait_common", "pthread_cond_wait", "os::PlatformEvent::park()"];
        let with = |above: &[&'static str]| [&park[..], above].concat();
        let enter = ["ObjectMonitor::EnterI(JavaThread*)", "ObjectMonitor::enter(JavaThread*)"];
        check(Class::LockByCondvar, &with(&enter));
        check(Class::Other, &with(&["ObjectMonitor::wait(long, bool, JavaThread*)"]));
        check(Class::Other, &with(&[enter[0], enter[1], "ObjectMonitor::wait(long, bool)"]));
        check(Class::Other, &with(&["Parker::park(bool, long)", "Unsafe_Park"]));
    }

    #[test]
    fn parameters_do_not_matter() {
        check(Class::Lock, &["pthread_mutex_lock", "work(std::condition_variable&)"]);
        check(Class::Lock, &["pthread_mutex_lock", "f<std::condition_variable>", "g::<Condvar>"]);
    }

    #[test]
    fn paths() {
        for (name, want) in [
            ("main", "main"),
            ("f(std::mutex&)", "f"),
            (
                "<std::sys::sync::mutex::futex::Mutex>::lock_contended",
                "std::sys::sync::mutex::futex::Mutex::lock_contended",
            ),
            ("<a::Lock<T> as b::Raw>::lock::<U<V>>", "a::Lock::lock::"),
            ("void f<std::pair<int, int> >(int)", "void f"),
            ("", ""),
            ("<", ""),
            ("a>b", "a>b"),
        ] {
            assert_eq!(path(name), want, "{name}");
        }
    }

    #[test]
    fn musl_stacks_that_end_in_the_wait() {
        let class = |value| {
            classify([Some("__syscall_cp_c"), Some("__timedwait_cp")].into_iter(), (0, value))
        };
        // A mutex that 77 holds; a read-write lock; a semaphore; a condition variable.
        assert_eq!(class(1 << 31 | 77), Class::Lock);
        assert_eq!(class(u32::MAX), Class::Lock);
        assert_eq!(class(1 << 31), Class::Other);
        assert_eq!(class(2), Class::Other);
    }

    #[test]
    fn without_names_the_futex_decides() {
        let nameless = || [None; 5].into_iter();
        assert_eq!(classify(nameless(), (0, 2)), Class::Lock);
        assert_eq!(classify(nameless(), (9, 2)), Class::Lock);
        assert_eq!(classify(nameless(), (6, 0)), Class::Lock);
        assert_eq!(classify(nameless(), (0, 0)), Class::Other);
        assert_eq!(classify([Some("f"), None].into_iter(), (0, 2)), Class::Other);
        assert_eq!(classify([Some("syscall"), None].into_iter(), (0, 5)), Class::Nameless);
    }
}

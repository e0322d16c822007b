//! Survives mapped files that shrink: their missing pages read as zeros.
//!
//! Such a page raises SIGBUS. The profiled program owns its files, so it could kill us at will.
//! Instead zeros are mapped there, which the parsers reject as a broken file, and the fault is
//! counted.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use image::ElfImage;

/// A fixed number of ranges: the signal handler can neither lock nor allocate.
pub(crate) const SLOTS: usize = 32_768;

struct Slot {
    /// 0 while the slot is free. Written last on registration and first on removal.
    start: AtomicUsize,
    end: AtomicUsize,
}

static RANGES: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; SLOTS];
/// Slots from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// The previous action, for faults outside of our ranges; leaked on installation, never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());
static INSTALL: Mutex<()> = Mutex::new(());
static GUARDED: Mutex<Vec<(Weak<ElfImage>, Registration)>> = Mutex::new(Vec::new());

/// A range of a file mapping whose missing pages read as zeros until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the protection"]
pub struct Registration {
    slot: usize,
}

impl Registration {
    /// Protects a range of a read-only file mapping of ours. Installs the handler if necessary.
    ///
    /// Drop it before unmapping: in a range that is reused, faults would be hidden.
    ///
    /// # Errors
    /// The error of `sigaction`, or `OutOfMemory` when all 32768 ranges are in use.
    pub fn new(range: Range<*const u8>) -> io::Result<Self> {
        install()?;
        let page = PAGE.load(Ordering::Relaxed);
        let start = range.start as usize & !(page - 1);
        let end = (range.end as usize).checked_next_multiple_of(page);
        let end = end.filter(|e| *e > start && start != 0).ok_or(io::ErrorKind::InvalidInput)?;
        let _lock = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = RANGES.iter().position(|s| s.start.load(Ordering::Relaxed) == 0);
        let slot = slot.ok_or(io::ErrorKind::OutOfMemory)?;
        RANGES[slot].end.store(end, Ordering::Release);
        RANGES[slot].start.store(start, Ordering::Release);
        USED.fetch_max(slot + 1, Ordering::Release);
        Ok(Self { slot })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        RANGES[self.slot].start.store(0, Ordering::Release);
    }
}

/// Protects the bytes of an image for as long as it exists.
///
/// # Errors
/// As [`Registration::new`].
pub fn guard(image: &Arc<ElfImage>) -> io::Result<()> {
    let mut guarded = GUARDED.lock().unwrap_or_else(PoisonError::into_inner);
    guarded.retain(|(image, _)| image.strong_count() > 0);
    let registration = Registration::new(image.bytes().as_ptr_range())?;
    guarded.push((Arc::downgrade(image), registration));
    Ok(())
}

/// How many missing pages were replaced with zeros in this process so far. Do not trust what was
/// parsed from the files concerned.
#[must_use]
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// Installs the signal handler; further calls do nothing.
///
/// # Errors
/// The error of `sigaction`.
#[allow(unsafe_code)]
pub fn install() -> io::Result<()> {
    let _lock = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    if !PREVIOUS.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Release);
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the action of SIGBUS, into a struct of the right type; all-zero is a valid
    // value of it, so that it is initialized either way.
    let previous = unsafe {
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        previous.assume_init()
    };
    PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::Release);
    // SAFETY: all-zero is a valid sigaction, whose fields are then set. The handler calls nothing
    // but async-signal-safe functions and reads atomics. SA_ONSTACK, since the previous action is
    // the runtime's stack overflow check, which needs the alternate stack.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[allow(unsafe_code)]
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: errno is thread-local and always there; what we interrupted must find it unchanged.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo; si_addr is meaningful for the
    // codes of a fault, and only they are let through to its use.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code != libc::BUS_ADRERR || !put_zeros(addr) {
        // Not ours: the previous action gets it. A fault happens again by itself when we return;
        // a signal that somebody sent does not.
        let previous = PREVIOUS.load(Ordering::Acquire);
        // SAFETY: `previous` points to a leaked, valid action; sigaction and raise are
        // async-signal-safe (signal-safety(7)).
        unsafe {
            libc::sigaction(signal, previous, std::ptr::null_mut());
            if code <= 0 {
                libc::raise(signal);
            }
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Maps zeros over the page of a registered range, or over the rest of the range if the kernel has no
/// mapping left for one page. False for an address outside of all ranges.
fn put_zeros(addr: usize) -> bool {
    let used = USED.load(Ordering::Acquire).min(SLOTS);
    for slot in &RANGES[..used] {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Acquire);
        if start == 0 || addr < start || addr >= end {
            continue;
        }
        let page = PAGE.load(Ordering::Relaxed);
        let at = addr & !(page - 1);
        if map_zeros(at, page) || map_zeros(at, end - at) {
            FAULTS.fetch_add(1, Ordering::Relaxed);
            return true;
        }
    }
    false
}

#[allow(unsafe_code)]
fn map_zeros(at: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range lies within a registered read-only file mapping of ours, of which nobody
    // holds more than shared byte slices; a page whose file is gone has no content to lose. mmap
    // is a bare system call here.
    let got = unsafe { libc::mmap(at as *mut libc::c_void, len, libc::PROT_READ, flags, -1, 0) };
    got != libc::MAP_FAILED
}

//! Assertions on recorded profiles.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, OnceLock};

use crate::chance::{Deviation, Rule};
use crate::{Frame, Profile, Sample, Truth};

/// For shares of programs that work in slices of 4 ms, at 997 Hz, in points.
///
/// Sampling is stratified: the only random part is where a slice starts between two samples, a sample
/// more or less for each. With 3000 samples in 750 slices that is 0.46 points. Beside it, late timers
/// of virtual machines and the partial rounds of 80 ms at both ends make up a point at most. A share
/// that is 3 points off is found in 99.9% of runs; 8 rounds of 3 s decide in any case, one mostly.
pub const SHARES: Rule = Rule { tolerance: 1.0, fault: 3.0, rounds: 8 };
/// The length of the programs' slices in nanoseconds.
const SLICE: f64 = 4e6;

/// The deviation of one share, in points, of all CPU time of a profile: see [`SHARES`].
#[must_use]
pub fn share_of_slices(profile: &Profile, what: &str, measured: f64, truth: f64) -> Deviation {
    let samples = profile.total("samples") as f64;
    let per_slice = SLICE / profile.period as f64;
    Deviation::share_of_slices(what, measured, truth, (samples, per_slice))
}

/// The deviations of the shares of all sites, in points. `sites` are pairs of a function and a site;
/// no stack may hold two of the functions. Samples outside of all of them (reading clocks, polling
/// stdin) must be under 3%.
///
/// # Panics
/// When more is outside.
#[track_caller]
#[must_use]
pub fn shares(profile: &Profile, truth: &Truth, sites: &[(&str, &str)]) -> Vec<Deviation> {
    let column = profile.column("cpu");
    let mut by_site = BTreeMap::<&str, i64>::new();
    let mut outside = 0;
    for sample in &profile.samples {
        match sites.iter().find(|(function, _)| sample.has(function)) {
            Some((_, site)) => *by_site.entry(site).or_default() += sample.values[column],
            None => outside += sample.values[column],
        }
    }
    let inside: i64 = by_site.values().sum();
    let outside_share = outside as f64 / (inside + outside) as f64;
    let is_outside = |s: &Sample| !sites.iter().any(|(function, _)| s.has(function));
    assert!(
        outside_share < 0.03,
        "{:.1}% outside of all sites:\n{}",
        outside_share * 100.0,
        profile.describe(8, is_outside)
    );
    let true_total: u64 = sites.iter().map(|(_, site)| truth.ns(site)).sum();
    let of_site = |&(_, site): &(&str, &str)| {
        let measured = by_site.get(site).copied().unwrap_or(0) as f64 / inside as f64 * 100.0;
        let real = truth.ns(site) as f64 / true_total as f64 * 100.0;
        share_of_slices(profile, site, measured, real)
    };
    sites.iter().map(of_site).collect()
}

/// Asserts that the shares of all sites in the profile are the true ones, by as many recordings as
/// that takes; returns the last profile.
///
/// # Panics
/// When a share differs.
#[track_caller]
pub fn assert_shares(
    rule: Rule,
    sites: &[(&str, &str)],
    mut record: impl FnMut() -> (Profile, Truth),
) -> Profile {
    rule.check(|| {
        let (profile, truth) = record();
        (shares(&profile, &truth, sites), profile)
    })
}

/// Like [`assert_shares`], for functions named like their sites and slices of 4 ms.
#[track_caller]
pub fn assert_site_shares(sites: &[&str], record: impl FnMut() -> (Profile, Truth)) -> Profile {
    let pairs: Vec<_> = sites.iter().map(|&site| (site, site)).collect();
    assert_shares(SHARES, &pairs, record)
}

/// Whether the stack is complete: its outermost frame is the function that started the thread.
#[must_use]
pub fn reaches_root(sample: &Sample) -> bool {
    // An exiting process has freed its user stack, so only kernel frames are left.
    let exiting = sample.root().function == "[no user stack]" && sample.has("do_exit");
    let begins = is_root_by_name(sample.root()) || is_root_by_code(sample.root());
    !is_marked(sample) && (exiting || begins)
}

/// Whether exoprof has marked the stack as truncated or broken.
#[must_use]
pub fn is_marked(sample: &Sample) -> bool {
    let root = &sample.root().function;
    root.starts_with("[truncated") || root.starts_with("[broken")
}

/// Asserts that at least `share` (0 to 1) of all samples have complete stacks.
///
/// # Panics
/// When fewer do; shows the heaviest incomplete stacks.
#[track_caller]
pub fn assert_roots(profile: &Profile, share: f64) {
    assert_reach(profile, share, "the thread's root", reaches_root);
}

/// Asserts that at least `share` (0 to 1) of all samples satisfy `holds`.
///
/// # Panics
/// When fewer do.
#[track_caller]
pub fn assert_reach(profile: &Profile, share: f64, what: &str, holds: impl Fn(&Sample) -> bool) {
    let all = profile.total("samples");
    assert!(all > 0, "the profile has no samples");
    let good = profile.sum("samples", &holds);
    assert!(
        good as f64 >= share * all as f64,
        "{good} of {all} samples reach {what}, under {:.1}%; those that do not:\n{}",
        share * 100.0,
        profile.describe(6, |s| !holds(s))
    );
}

/// Asserts that a value is within `tolerance` (0.02 is 2%) of the truth.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_close(what: &str, measured: f64, truth: f64, tolerance: f64) {
    let off = (measured - truth) / truth;
    assert!(
        off.abs() <= tolerance,
        "{what}: measured {measured}, true {truth}: off by {:.2}%, allowed {:.2}%",
        off * 100.0,
        tolerance * 100.0
    );
}

fn is_root_by_name(frame: &Frame) -> bool {
    let name = frame.function.split('@').next().unwrap_or_default();
    let known = [
        "_start",
        "_start_c",
        "__libc_start_call_main",
        "start_thread",
        "clone",
        "clone3",
        "__clone",
        "__clone3",
        "__clone_internal",
        "_dl_start_user",
    ];
    known.contains(&name)
        || name.starts_with("__libc_start_main")
        || name.starts_with("ret_from_fork")
}

/// Recognizes the root by its code, for when it has no name: without libc's debug symbols and in
/// stripped programs. `_start` traps (`hlt`) after the call that does not return; `clone`, `clone3`
/// and musl's `__clone` end the thread with `exit(2)` after theirs; musl calls `exit(main())` and
/// `pthread_exit(start())`.
fn is_root_by_code(frame: &Frame) -> bool {
    let Some(code) = code_after(frame) else { return false };
    let ends_thread: [&[u8]; 2] = [
        // mov $SYS_exit,%eax; syscall
        &[0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05],
        // mov $SYS_exit,%al; syscall
        &[0xb0, 0x3c, 0x0f, 0x05],
    ];
    // mov %eax,%edi; call exit, and mov %rax,%rdi; call pthread_exit
    let passes_on: [&[u8]; 2] = [&[0x89, 0xc7, 0xe8], &[0x48, 0x89, 0xc7, 0xe8]];
    code[0] == 0xf4
        || passes_on.iter().any(|end| code.starts_with(end))
        || ends_thread.iter().any(|end| code.windows(end.len()).any(|window| window == *end))
}

/// The code at the frame's return address (x86-64: the frame's address + 1).
fn code_after(frame: &Frame) -> Option<[u8; 16]> {
    static FILES: OnceLock<Mutex<HashMap<String, Vec<u8>>>> = OnceLock::new();
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let mapping = frame.mapping.as_ref()?;
    let at = frame.address.checked_add(1)?.checked_sub(mapping.start)? + mapping.offset;
    let mut files = FILES.get_or_init(Mutex::default).lock().ok()?;
    let bytes = files
        .entry(mapping.file.clone())
        .or_insert_with(|| std::fs::read(&mapping.file).unwrap_or_default());
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at + 16)?.try_into().ok()
}

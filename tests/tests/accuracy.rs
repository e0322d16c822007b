//! Tests that CPU shares are those of the program's own measurement (see `expect::SHARES`) and that
//! stacks are complete.

use exoprof_tests::chance::{Deviation, Rule};
use exoprof_tests::expect::{
    SHARES, assert_reach, assert_roots, assert_shares, assert_site_shares, is_marked,
    share_of_slices,
};
use exoprof_tests::programs::{self, Program};
use exoprof_tests::{Profile, Target, Truth, record_busy};

/// At least 99.5% of stacks must reach the thread's root. The rest may be sampled in the few
/// instructions of a prologue, of `clone` or of the dynamic loader.
const WHOLE: f64 = 0.995;

fn profile_of(program: Program, args: &[&str]) -> (Profile, Truth) {
    profile_at(program, args, "997")
}

fn profile_at(program: Program, args: &[&str], hertz: &str) -> (Profile, Truth) {
    let mut target = Target::working(program, args);
    let before = target.mark();
    let recording = record_busy(target.pid(), 3.0, &["-F", hertz]);
    let truth = target.mark().since(&before);
    let _ = target.finish();
    (recording.profile.clone(), truth)
}

const SHARE_SITES: &[&str] = &["heavy_a", "heavy_b", "heavy_c", "heavy_d"];

#[track_caller]
fn check_shares(program: Program) {
    let profile = assert_site_shares(SHARE_SITES, || profile_of(program, &[]));
    assert_roots(&profile, WHOLE);
    assert_reach(&profile, WHOLE, "main", |s| s.has("main"));
}

#[test]
fn shares_pie() {
    check_shares(programs::SHARES);
}

#[test]
fn shares_no_pie() {
    check_shares(programs::SHARES_NO_PIE);
}

#[test]
fn shares_static() {
    check_shares(programs::SHARES_STATIC);
}

#[test]
fn shares_static_pie() {
    check_shares(programs::SHARES_STATIC_PIE);
}

/// musl has no unwind tables; the caller of `main` is recognized by its code.
#[test]
fn shares_musl() {
    check_shares(programs::SHARES_MUSL);
    check_shares(programs::SHARES_MUSL_DYNAMIC);
}

#[test]
fn stripped_reaches_root() {
    let (profile, _) = profile_of(programs::SHARES_STRIPPED, &[]);
    assert_roots(&profile, WHOLE);
    // Code whose symbols are stripped must not get an invented name.
    let named = profile.sum("samples", |s| {
        let ours = |m: &exoprof_tests::profile::Mapping| m.file.ends_with("shares-stripped");
        s.stack.iter().any(|f| {
            f.mapping.as_ref().is_some_and(|m| ours(m))
                && ["heavy", "main", "leaf"].iter().any(|n| f.function.contains(n))
        })
    });
    assert_eq!(named, 0, "{}", profile.describe(4, |_| true));
}

/// At the default rate there are 300 samples in 3 s, about one per two slices, so chance has much
/// more effect: 2.9 points of a half. It still distinguishes 50% from 35%.
#[test]
fn shares_at_99_hertz() {
    let rule = Rule { tolerance: 2.0, fault: 15.0, rounds: 5 };
    let sites: Vec<_> = SHARE_SITES.iter().map(|&s| (s, s)).collect();
    let profile = assert_shares(rule, &sites, || profile_at(programs::SHARES, &[], "99"));
    assert_roots(&profile, WHOLE);
}

/// A callee's time is flat in the callee and only cumulative in its caller.
#[test]
fn flat_and_cumulative_differ() {
    let (profile, _) = profile_of(programs::SHARES, &[]);
    let under_d = profile.sum("cpu", |s| s.has("heavy_d"));
    let in_leaf = profile.sum("cpu", |s| s.has("heavy_d") && s.leaf().is("leaf_of_d"));
    assert!(under_d > 0);
    assert!(in_leaf as f64 > 0.95 * under_d as f64, "{in_leaf} of {under_d}");
    assert_reach(&profile, 1.0, "heavy_d below leaf_of_d", |s| match s.position("leaf_of_d") {
        Some(at) => s.stack.get(at + 1).is_some_and(|f| f.is("heavy_d")),
        None => true,
    });
}

/// Asserts one share by as many recordings as that takes; returns the last profile.
#[track_caller]
fn check(
    mut record: impl FnMut() -> (Profile, Truth),
    share: impl Fn(&(Profile, Truth)) -> Deviation,
) -> Profile {
    SHARES.check(|| {
        let recorded = record();
        (vec![share(&recorded)], recorded.0)
    })
}

/// Rust names: generic instances are separate, `<…>` is kept, and the mangled name is kept as well.
#[track_caller]
fn check_rust(program: Program, prefix: &str) {
    // Both instances of the generic function are one site here: legacy names do not distinguish
    // them.
    let generic = |(profile, truth): &(Profile, Truth)| {
        let generic = profile.sum("cpu", |s| s.has("generic_mix")) as f64;
        let holder = profile.sum("cpu", |s| s.has("work")) as f64;
        let measured = generic / (generic + holder) * 100.0;
        let real = (truth.share("generic_u32") + truth.share("generic_u8")) * 100.0;
        share_of_slices(profile, "generic", measured, real)
    };
    let profile = check(|| profile_of(program, &[]), generic);
    assert_roots(&profile, WHOLE);
    for name in ["generic_mix", "work"] {
        let frame = profile.samples.iter().flat_map(|s| &s.stack).find(|f| f.is(name));
        let frame = frame.unwrap_or_else(|| panic!("no {name}"));
        assert!(frame.system_name.starts_with(prefix), "{frame:?}");
        assert_ne!(frame.function, frame.system_name);
        assert!(frame.function.contains("rust_shares"), "{frame:?}");
        assert!(frame.file.ends_with("rust_shares.rs"), "{frame:?}");
    }
    let holder = profile.samples.iter().flat_map(|s| &s.stack).find(|f| f.is("work")).unwrap();
    assert!(holder.function.contains(" as rust_shares::Work>"), "{holder:?}");
}

#[test]
fn rust_v0() {
    check_rust(programs::RUST_V0, "_R");
}

#[test]
fn rust_legacy() {
    check_rust(programs::RUST_LEGACY, "_ZN");
}

#[test]
fn exceptions() {
    let profile =
        assert_site_shares(&["throwing", "calm"], || profile_of(programs::EXCEPTIONS, &[]));
    // libgcc's unwinder restores registers in code that no unwind table describes fully.
    assert_roots(&profile, 0.99);
    let in_unwinder = profile.sum("cpu", |s| s.has("throwing") && s.has("_Unwind_RaiseException"));
    assert!(in_unwinder > 0, "{}", profile.describe(6, |s| s.has("throwing")));
}

#[track_caller]
fn check_signals(stack: &str, whole: f64) {
    let handler = |s: &exoprof_tests::Sample| s.has("handler_burn");
    let in_handler = |(profile, truth): &(Profile, Truth)| {
        let measured = profile.sum("cpu", handler) as f64 / profile.total("cpu") as f64 * 100.0;
        share_of_slices(profile, "handler", measured, truth.share("handler_burn") * 100.0)
    };
    let profile = check(|| profile_of(programs::SIGNALS, &[stack]), in_handler);
    assert_roots(&profile, whole);
    // 1% may interrupt the few instructions between two rounds of the loop.
    assert_reach(&profile, 0.99, "the interrupted function below the handler", |s| {
        match (s.position("on_signal"), s.position("interrupted_loop")) {
            (Some(above), Some(below)) => above < below,
            _ => !handler(s),
        }
    });
}

#[test]
fn signal_on_own_stack() {
    check_signals("normal", WHOLE);
}

/// The kernel does not copy the interrupted stack in this case. It is completed from how it is
/// found at two readings of the ring buffers, 20 ms apart; 8 samples of the handler lie between two
/// readings. Those before the first reading are truncated, and twice as many if one reading finds
/// the program between two rounds.
#[test]
fn signal_on_alternate_stack() {
    check_signals("alternate", 0.99);
}

/// Every stack that contains the bottom contains exactly `depth` frames of the recursion, and its
/// root. 2% may be sampled while the recursion descends or returns, which takes time with 5000 big
/// frames.
#[track_caller]
fn check_recursion(kind: &str, depth: usize) {
    let (profile, _) = profile_of(programs::RECURSION, &[kind, &depth.to_string()]);
    let function = format!("descend_{kind}");
    let at_bottom = |s: &exoprof_tests::Sample| s.has("bottom_burn") && !is_marked(s);
    assert_reach(&profile, 0.98, "from bottom_burn to the root", |s| {
        at_bottom(s) && exoprof_tests::expect::reaches_root(s)
    });
    for sample in profile.samples.iter().filter(|s| at_bottom(s)) {
        let frames = sample.stack.iter().filter(|f| f.is(&function)).count();
        assert_eq!(frames, depth, "{sample}");
    }
}

#[test]
fn recursion_small_10() {
    check_recursion("small", 10);
}

#[test]
fn recursion_small_1000() {
    check_recursion("small", 1000);
}

#[test]
fn recursion_small_5000() {
    check_recursion("small", 5000);
}

#[test]
fn recursion_big_10() {
    check_recursion("big", 10);
}

#[test]
fn recursion_big_1000() {
    check_recursion("big", 1000);
}

/// The kernel's copy of a stack ends at a page that was never touched. exoprof reads such pages
/// once, so that later copies continue past them; only a thread's first samples have to be
/// completed from the live stack.
#[test]
fn pages_that_were_never_touched() {
    let profile = assert_site_shares(&["below_hole"], || profile_of(programs::HOLE, &[]));
    let completed = profile.comments.iter().find_map(|c| {
        let (n, what) = c.split_once(' ')?;
        what.starts_with("deep stack").then(|| n.parse::<i64>().unwrap())
    });
    let completed = completed.unwrap_or(0);
    let (all, cut) = (profile.total("samples"), profile.sum("samples", is_marked));
    // A thread gives 120 samples. Those of the first one or two readings of the ring buffers, 20 ms
    // each, may be short; the number must not grow with the pages of the hole.
    let short = completed + cut;
    assert!(short > 0 && short * 2 < all, "{completed} completed, {cut} cut, of {all}");
}

#[test]
fn libc_vdso_and_kernel() {
    through_libc(programs::DEEP_LIBC);
}

#[test]
fn musl_vdso_and_kernel() {
    through_libc(programs::DEEP_LIBC_MUSL);
    through_libc(programs::DEEP_LIBC_MUSL_DYNAMIC);
}

#[track_caller]
fn through_libc(program: Program) {
    let sites = ["in_qsort", "in_bsearch", "in_memcpy", "in_vdso", "in_kernel"];
    let profile = assert_site_shares(&sites, || profile_of(program, &[]));
    assert_roots(&profile, 0.99);
    let above = |callee: &str, site: &str| {
        profile
            .samples
            .iter()
            .any(|s| matches!((s.position(callee), s.position(site)), (Some(a), Some(b)) if a < b))
    };
    assert!(above("compare_items", "in_qsort"));
    assert!(above("compare_keys", "in_bsearch"));
    // The vDSO must be symbolized at recording time: no reader can do it later.
    let in_vdso =
        |f: &exoprof_tests::Frame| f.mapping.as_ref().is_some_and(|m| m.file.contains("vdso"));
    let vdso: Vec<_> =
        profile.samples.iter().filter(|s| s.has("in_vdso") && in_vdso(s.leaf())).collect();
    assert!(!vdso.is_empty(), "{}", profile.describe(6, |s| s.has("in_vdso")));
    assert!(vdso.iter().all(|s| s.leaf().function.contains("clock_gettime")), "{}", vdso[0]);
    // Kernel frames are leafward of libc's read.
    let kernel = profile.sum("cpu", |s| s.has("in_kernel") && s.has("vfs_read"));
    let site = profile.sum("cpu", |s| s.has("in_kernel"));
    assert!(kernel as f64 > 0.9 * site as f64, "{}", profile.describe(6, |s| s.has("in_kernel")));
}

#[test]
fn no_kernel_frames_with_no_kernel_option() {
    let target = Target::working(programs::DEEP_LIBC, &[]);
    let recording = record_busy(target.pid(), 2.0, &["-F", "997", "--no-kernel"]);
    let kernel = recording.profile.sum("samples", |s| {
        s.stack.iter().any(|f| {
            f.is("vfs_read") || f.mapping.as_ref().is_some_and(|m| m.file.contains("[kernel"))
        })
    });
    assert_eq!(kernel, 0);
}

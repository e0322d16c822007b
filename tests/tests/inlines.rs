//! Tests of inlined calls: every level has the right name and line. Expectations come from marks in
//! the sources.

use exoprof_tests::expect::assert_reach;
use exoprof_tests::programs::{self, Program};
use exoprof_tests::{Sample, Target, record_busy};

/// Checks one stack against the marks: between two adjacent functions of the chain, the caller's
/// line is the one marked `@call CALLEE`, and each start line is `@begin`.
fn check(program: Program, chain: &[&str], sample: &Sample) -> Result<(), String> {
    let from = sample.position(chain[0]).ok_or("the innermost level is missing")?;
    for (at, pair) in (from..).zip(chain.windows(2)) {
        let [callee, caller] = [pair[0], pair[1]];
        let [inner, outer] = [sample.stack.get(at), sample.stack.get(at + 1)];
        let outer = outer.ok_or_else(|| format!("nothing below {callee}"))?;
        if !outer.is(caller) {
            return Err(format!("{callee} is called by {outer}, not {caller}"));
        }
        let call = program.marked_line(&format!("@call {callee}"));
        if outer.line != call {
            return Err(format!("{caller} calls {callee} in line {call}, not {}", outer.line));
        }
        let begin = program.marked_line(&format!("@begin {callee}"));
        if inner.is_some_and(|f| f.start_line != begin) {
            return Err(format!("{callee} starts in line {begin}: {inner:?}"));
        }
    }
    Ok(())
}

/// `chain` is innermost first and ends with the caller of the function that is not inlined.
#[track_caller]
fn check_inlines(program: Program, chain: &[&str]) {
    let target = Target::working(program, &[]);
    let recording = record_busy(target.pid(), 2.0, &["-F", "997"]);
    let profile = &recording.profile;
    // The loop's own instructions may belong to the outer level, so not every sample is in the
    // innermost one. The compiler decides which samples lack level 0 or 1; they are rare.
    assert_reach(profile, 0.95, "the hot function", |s| s.has("hot"));
    let innermost = profile.sum("samples", |s| s.has(chain[0]));
    let all = profile.total("samples");
    assert!(innermost * 4 > all, "{innermost} of {all}:\n{}", profile.describe(6, |_| true));
    for level in 0..chain.len() - 1 {
        let chain = &chain[level..];
        for sample in profile.samples.iter().filter(|s| s.has(chain[0])) {
            if let Err(wrong) = check(program, chain, sample) {
                panic!("{wrong}:\n{sample}");
            }
        }
    }
    // The innermost line is within the function, or 0 if the compiler gives none.
    let [begin, end] =
        ["@begin", "@end"].map(|mark| program.marked_line(&format!("{mark} {}", chain[0])));
    for frame in profile.samples.iter().flat_map(|s| &s.stack).filter(|f| f.is(chain[0])) {
        assert!(frame.line == 0 || (begin..=end).contains(&frame.line), "{frame:?}");
        assert!(program.source().ends_with(frame.file.rsplit('/').next().unwrap()), "{frame:?}");
        assert!(frame.inlined, "{frame:?}");
    }
    let hot = profile.samples.iter().flat_map(|s| &s.stack).find(|f| f.is("hot")).unwrap();
    assert!(!hot.inlined, "{hot:?}");
}

#[test]
fn inlines_of_c() {
    check_inlines(programs::INLINE_C, &["level3", "level2", "level1", "hot", "main"]);
}

#[test]
fn inlines_of_cxx() {
    check_inlines(programs::INLINE_CXX, &["step", "many", "run", "hot", "main"]);
}

#[test]
fn inlines_of_rust() {
    check_inlines(programs::INLINE_RUST, &["step", "many", "run", "hot", "slice"]);
}

//! Inlined calls: every level by name and line. Expectations come from marks in the sources.

use exoprof_tests::expect::assert_reach;
use exoprof_tests::programs::{self, Program};
use exoprof_tests::{Sample, Target, record_busy};

/// Checks one stack against the marks: between two functions of the chain that stand next to each
/// other, the caller's line is the one marked `@call CALLEE`; each start line is `@begin`.
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

/// `chain` is innermost first and ends with the real function's caller.
#[track_caller]
fn inlines_are_right(program: Program, chain: &[&str]) {
    let target = Target::working(program, &[]);
    let recording = record_busy(target.pid(), 2.0, &["-F", "997"]);
    let profile = &recording.profile;
    // The loop's own instructions may belong to the level above, so not every sample is innermost;
    // which do not hold level 0 or 1 is the compiler's choice, and rare.
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
    // The innermost line lies within the function (0: the compiler names none).
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
    inlines_are_right(programs::INLINE_C, &["level3", "level2", "level1", "hot", "main"]);
}

#[test]
fn inlines_of_cxx() {
    inlines_are_right(programs::INLINE_CXX, &["step", "many", "run", "hot", "main"]);
}

#[test]
fn inlines_of_rust() {
    inlines_are_right(programs::INLINE_RUST, &["step", "many", "run", "hot", "slice"]);
}

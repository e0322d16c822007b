//! Merges native frames and Python frames into one stack.
//!
//! Each run of the interpreter's evaluation loop is one native frame. It executes a row of Python
//! frames (a single one up to 3.10), which replace it:
//!
//! ```text
//!   native                     Python                 merged
//!   sha256_block                                      sha256_block
//!   _PyEval_EvalFrameDefault ◄─┬─ digest              digest
//!                              └─ handle              handle
//!   slot_tp_call                                      slot_tp_call
//!   _PyEval_EvalFrameDefault ◄─── <module>            <module>
//!   main                                              main
//! ```
//!
//! From 3.11 on, each row has an *anchor*: an address within the native frame that it belongs to.
//! In older versions, rows are matched with runs of the loop by counting from the end of the stack
//! that is known to be complete.

use std::ops::Range;

use events::ChainFrame;
use image::Avma;
use pyruntime::FrameStyle;
use unwind::Frame;

/// `FRAME_OWNED_BY_CSTACK` in 3.12 and 3.13, `FRAME_OWNED_BY_INTERPRETER` in 3.14. Frames with this
/// owner or a higher one do not execute a function.
const FIRST_OWNER_WITHOUT_FUNCTION: u8 = 3;

/// A frame of the merged stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Index of a native frame.
    Native(usize),
    /// Index of a Python frame.
    Python(usize),
}

/// The Python frames that one run of the evaluation loop executes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    frames: Range<usize>,
    /// An address within the native frame; 0 if there is none.
    anchor: u64,
}

fn rows(chain: &[ChainFrame], style: FrameStyle) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut begin = 0;
    for (i, frame) in chain.iter().enumerate() {
        match style {
            FrameStyle::Objects => rows.push(Row { frames: i..i + 1, anchor: 0 }),
            FrameStyle::EntryFlag => {
                if chain.get(i + 1).is_none_or(|next| next.c_frame != frame.c_frame) {
                    rows.push(Row { frames: begin..i + 1, anchor: frame.c_frame });
                    begin = i + 1;
                }
            }
            FrameStyle::EntryFrameThroughCFrame | FrameStyle::EntryFrame => {
                if frame.owner >= FIRST_OWNER_WITHOUT_FUNCTION {
                    rows.push(Row { frames: begin..i, anchor: frame.address });
                    begin = i + 1;
                } else if i + 1 == chain.len() {
                    // The chain was truncated before the anchor.
                    rows.push(Row { frames: begin..i + 1, anchor: 0 });
                }
            }
        }
    }
    rows
}

/// The native frame of each row, if there is one.
fn native_frames(
    rows: &[Row],
    style: FrameStyle,
    native: &[Frame],
    is_whole: bool,
    evaluates: impl Fn(Avma) -> bool,
) -> Vec<Option<usize>> {
    let loops: Vec<usize> =
        (0..native.len()).filter(|i| evaluates(native[*i].lookup_address())).collect();
    if style == FrameStyle::Objects {
        let from_root = |i: usize| (loops.len() + i).checked_sub(rows.len());
        let pair = |i: usize| if is_whole { from_root(i) } else { Some(i) };
        return (0..rows.len()).map(|i| loops.get(pair(i)?).copied()).collect();
    }
    let mut matched = Vec::with_capacity(rows.len());
    let mut next = 0;
    for row in rows {
        let contains_anchor = |i: &usize| {
            let above = native.get(i + 1).map_or(u64::MAX, |f| f.sp.0);
            native[*i].sp.0 <= row.anchor && row.anchor < above && *i + 1 < native.len()
        };
        let frame = if row.anchor == 0 {
            loops.iter().copied().find(|i| *i >= next)
        } else {
            (next..native.len()).find(contains_anchor)
        };
        next = frame.map_or(next, |i| i + 1);
        matched.push(frame);
    }
    matched
}

/// Merges both stacks into `out`, leaf first. Rows without a native frame are inserted in their
/// order; returns the number of such rows.
pub(super) fn merge(
    chain: &[ChainFrame],
    style: FrameStyle,
    native: &[Frame],
    is_whole: bool,
    evaluates: impl Fn(Avma) -> bool,
    out: &mut Vec<Part>,
) -> usize {
    let rows = rows(chain, style);
    let matched = native_frames(&rows, style, native, is_whole, evaluates);
    let mut unmatched = 0;
    let mut done = 0;
    out.clear();
    let put = |row: &Row, out: &mut Vec<Part>| {
        out.extend(row.frames.clone().map(Part::Python));
        !row.frames.is_empty()
    };
    for i in 0..native.len() {
        let Some(at) = (done..rows.len()).find(|r| matched[*r] == Some(i)) else {
            out.push(Part::Native(i));
            continue;
        };
        for row in &rows[done..at] {
            unmatched += 1;
            put(row, out);
        }
        if !put(&rows[at], out) {
            out.push(Part::Native(i));
        }
        done = at + 1;
    }
    for row in &rows[done..] {
        // If the copied window was too small, native frames are missing for these rows as expected.
        unmatched += usize::from(is_whole);
        put(row, out);
    }
    unmatched
}

#[cfg(test)]
mod tests {
    use unwind::FrameKind;

    use super::*;

    const EVAL: u64 = 0x5000;

    fn native(frames: &[(u64, u64)]) -> Vec<Frame> {
        let frame = |&(pc, sp): &(u64, u64)| Frame {
            pc: Avma(pc),
            kind: FrameKind::Leaf,
            mapping: None,
            sp: Avma(sp),
        };
        frames.iter().map(frame).collect()
    }

    fn python(address: u64, c_frame: u64, owner: u8) -> ChainFrame {
        ChainFrame { address, code: address, instruction: 0, c_frame, owner }
    }

    fn merged(chain: &[ChainFrame], style: FrameStyle, native: &[Frame], whole: bool) -> String {
        let mut out = Vec::new();
        let unmatched = merge(chain, style, native, whole, |a| a.0 == EVAL, &mut out);
        let text = |p: &Part| match p {
            Part::Native(i) => format!("n{i}"),
            Part::Python(i) => format!("p{i}"),
        };
        format!("{} +{unmatched}", out.iter().map(text).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn anchors_find_their_native_frames() {
        // Leaf, loop, call, loop, main.
        let native = native(&[(1, 100), (EVAL, 200), (2, 300), (EVAL, 400), (3, 500)]);
        let by_flag = [python(0x10, 250, 0), python(0x20, 250, 0), python(0x30, 450, 0)];
        let style = FrameStyle::EntryFlag;
        assert_eq!(merged(&by_flag, style, &native, true), "n0 p0 p1 n2 p2 n4 +0");
        let by_frame = [
            python(0x10, 0, 0),
            python(0x20, 0, 1),
            python(250, 0, 3),
            python(0x30, 0, 0),
            python(450, 0, 3),
        ];
        let style = FrameStyle::EntryFrame;
        assert_eq!(merged(&by_frame, style, &native, true), "n0 p0 p1 n2 p3 n4 +0");
        // The innermost loop has not linked its frame yet.
        assert_eq!(merged(&by_frame[3..], style, &native, true), "n0 n1 n2 p0 n4 +0");
        // The outer loop lies beyond the copied window.
        assert_eq!(merged(&by_frame, style, &native[..3], false), "n0 p0 p1 n2 p3 +0");
        // The chain was truncated.
        assert_eq!(merged(&by_frame[..2], style, &native, true), "n0 p0 p1 n2 n3 n4 +0");
    }

    #[test]
    fn rows_without_anchors_are_counted_from_the_known_end() {
        let native = native(&[(1, 100), (EVAL, 200), (2, 300), (EVAL, 400), (3, 500)]);
        let chain = [python(0x10, 0, 0), python(0x20, 0, 0)];
        let style = FrameStyle::Objects;
        assert_eq!(merged(&chain, style, &native, true), "n0 p0 n2 p1 n4 +0");
        assert_eq!(merged(&chain[1..], style, &native, true), "n0 n1 n2 p0 n4 +0");
        assert_eq!(merged(&chain, style, &native[..3], false), "n0 p0 n2 p1 +0");
        // Symbols do not identify one of the loops: its Python frame is still there.
        let hidden = [&native[..1], &native[2..]].concat();
        assert_eq!(merged(&chain, style, &hidden, true), "n0 n1 p0 p1 n3 +1");
    }
}

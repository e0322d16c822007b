//! Formats goroutines as Go's own `debug=1` and `debug=2` texts.

use std::collections::HashMap;
use std::fmt::Write as _;

use gopclntab::printed_name;
use image::Avma;
use printable::{Printable, line};

use crate::{Goroutine, LogicalFrame, Runtime, StackAbsence, Status};

/// Frames that Go prints from each end of a stack (`tracebackInnerFrames`, `tracebackOuterFrames`).
const INNER: usize = 50;
const OUTER: usize = 50;

/// Formats each goroutine as `debug=2` and an unrecovered panic do (`goroutineheader` and
/// `traceback2` in Go's runtime/traceback.go). `now` is the CLOCK_MONOTONIC time in nanoseconds at
/// which the goroutines were read; wait times count up to it.
///
/// Like Go, omits system goroutines. A goroutine without a stack is printed with Go's own text for
/// that.
#[must_use]
pub fn format_goroutines(runtime: &Runtime, goroutines: &[Goroutine], now: u64) -> String {
    let mut text = String::new();
    for g in goroutines.iter().filter(|g| !g.system) {
        if !text.is_empty() {
            text.push('\n');
        }
        header(&mut text, g, now);
        match &g.stack {
            Ok(_) => stack(&mut text, runtime, g),
            Err(StackAbsence::Running(_)) => {
                text.push_str("\tgoroutine running on other thread; stack unavailable\n");
            }
            Err(_) => text.push_str("\tstack unavailable\n"),
        }
        created_by(&mut text, runtime, g);
    }
    text
}

fn header(text: &mut String, g: &Goroutine, now: u64) {
    let status = g.wait_reason.as_deref().unwrap_or(g.status.name());
    let _ = write!(text, "goroutine {} [{status}", g.id);
    if g.status == Status::Leaked {
        text.push_str(" (leaked)");
    }
    if g.scanned {
        text.push_str(" (scan)");
    }
    let waits = matches!(g.status, Status::Waiting | Status::Syscall);
    if let Some(since) = g.waiting_since.filter(|_| waits) {
        let minutes = now.saturating_sub(since) / 60_000_000_000;
        if minutes >= 1 {
            let _ = write!(text, ", {minutes} minutes");
        }
    }
    if g.locked_to_thread {
        text.push_str(", locked to thread");
    }
    if let Some(bubble) = g.bubble {
        let _ = write!(text, ", synctest bubble {bubble}");
    }
    text.push_str("]:\n");
}

fn stack(text: &mut String, runtime: &Runtime, g: &Goroutine) {
    let Ok(stack) = &g.stack else { return };
    let all = runtime.logical_frames(stack);
    let mut shown: Vec<&LogicalFrame<'_>> = Vec::new();
    for f in &all {
        if is_shown(runtime, f, shown.is_empty()) {
            shown.push(f);
        }
    }
    // Show runtime frames only if there are no others.
    if shown.is_empty() {
        shown = all.iter().collect();
    }
    let hidden = shown.len().saturating_sub(INNER + OUTER);
    // Go before 1.21 does not print the outer frames at all.
    let outer = runtime.layout().minor >= 21;
    for (i, f) in shown.iter().enumerate() {
        if hidden > 0 && i == INNER && outer {
            let _ = writeln!(text, "...{hidden} frames elided...");
        }
        if hidden == 0 || !outer || !(INNER..INNER + hidden).contains(&i) {
            if !outer && i == INNER + OUTER {
                text.push_str("...additional frames elided...\n");
                break;
            }
            let arguments = stack.frames.get(f.physical).map(|p| p.arguments.as_deref());
            let pc = stack.frames.get(f.physical).map_or(f.pc, |p| p.pc);
            frame(text, f, arguments.flatten().unwrap_or_default(), pc);
        }
    }
}

fn frame(text: &mut String, f: &LogicalFrame<'_>, arguments: &str, pc: Avma) {
    text.push_str(&name_in_traceback(&f.function));
    let arguments = if f.inlined { "..." } else { arguments };
    let _ = write!(text, "({arguments})\n\t{}", position(f));
    if !f.inlined && pc > f.entry {
        let _ = write!(text, " +{:#x}", pc.0 - f.entry.0);
    }
    text.push('\n');
}

fn position(f: &LogicalFrame<'_>) -> String {
    f.position
        .as_ref()
        .map_or_else(|| "?:0".to_owned(), |(file, n)| format!("{}:{n}", Printable(file)))
}

fn name_in_traceback(name: &str) -> String {
    if name == "runtime.gopanic" {
        return "panic".to_owned();
    }
    line(&printed_name(name)).into_owned()
}

/// Whether a traceback shows the frame (`showfuncinfo`): runtime internals only if they explain
/// what happens.
fn is_shown(runtime: &Runtime, f: &LogicalFrame<'_>, first: bool) -> bool {
    let special = runtime.line_table().special();
    let is = |which: Option<u8>| f.id != 0 && which == Some(f.id);
    let minor = runtime.layout().minor;
    if minor >= 25 && (is(special.finalizers) || is(special.cleanups)) {
        return true;
    }
    let name = &*f.function;
    if name == "runtime.gopanic" && !first {
        return true;
    }
    name.contains('.') && (!name.starts_with("runtime.") || is_exported(name, minor))
}

/// Whether the function is exported by package runtime (`isExportedRuntime`; with methods since
/// 1.23).
fn is_exported(name: &str, minor: u32) -> bool {
    let upper = |s: &str| s.starts_with(|c: char| c.is_ascii_uppercase());
    let Some(name) = name.strip_prefix("runtime.") else { return false };
    if minor < 23 {
        return upper(name);
    }
    let (receiver, name) = name.rsplit_once('.').unwrap_or(("", name));
    let inner = receiver.strip_prefix("(*").and_then(|r| r.strip_suffix(')'));
    let receiver = inner.unwrap_or(receiver);
    upper(name) && (receiver.is_empty() || upper(receiver))
}

/// Appends the `created by` lines (`printcreatedby`).
fn created_by(text: &mut String, runtime: &Runtime, g: &Goroutine) {
    let pc = runtime.bias().to_svma(g.created_at);
    let Some(f) = runtime.line_table().function_at(pc) else { return };
    let name = f.name();
    let call = if pc > f.entry() { pc.wrapping_sub(1) } else { pc };
    let shown = name.contains('.')
        && (!name.starts_with("runtime.") || is_exported(&name, runtime.layout().minor));
    if !shown || g.id == 1 {
        return;
    }
    let _ = write!(text, "created by {}", name_in_traceback(&name));
    if let Some(parent) = g.parent {
        let _ = write!(text, " in goroutine {parent}");
    }
    let position = f.position(call);
    let at =
        position.map_or_else(|| "?:0".to_owned(), |(file, n)| format!("{}:{n}", Printable(&file)));
    let _ = write!(text, "\n\t{at}");
    if pc > f.entry() {
        let _ = write!(text, " +{:#x}", pc.0 - f.entry().0);
    }
    text.push('\n');
}

/// Formats goroutines as `debug=1` does, grouped by equal stacks and labels (`printCountProfile` in
/// Go's runtime/pprof). `name` is "goroutine" or "goroutineleak". Uses only the innermost `depth`
/// frames; Go's own limit is [`Runtime::profile_depth`](crate::Runtime::profile_depth).
#[must_use]
pub fn format_goroutines_grouped(
    runtime: &Runtime,
    goroutines: &[Goroutine],
    name: &str,
    depth: usize,
) -> String {
    let frames = |g: &Goroutine| {
        let all = g.stack.as_ref().map(|s| runtime.logical_frames(s));
        let mut all = all.unwrap_or_default();
        all.truncate(depth);
        all
    };
    // Keys may be long: each is stored once, and hashed once per goroutine.
    let mut groups: HashMap<String, (usize, &Goroutine)> = HashMap::new();
    let users = || goroutines.iter().filter(|g| !g.system);
    for g in users() {
        groups.entry(group_key(g, &frames(g))).or_insert((0, g)).0 += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_unstable_by(|(a, (m, _)), (b, (n, _))| n.cmp(m).then_with(|| a.cmp(b)));
    let mut text = format!("{name} profile: total {}\n", users().count());
    for (key, (count, g)) in groups {
        let _ = writeln!(text, "{count} {key}");
        record(&mut text, runtime, &frames(g));
    }
    text
}

fn group_key(g: &Goroutine, frames: &[LogicalFrame<'_>]) -> String {
    let mut key = String::from("@");
    for f in frames {
        let _ = write!(key, " {:#x}", f.pc.0.wrapping_add(1));
    }
    if !g.labels.is_empty() {
        let mut pairs: Vec<String> =
            g.labels.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
        pairs.sort();
        let _ = write!(key, "\n# labels: {{{}}}", pairs.join(", "));
    }
    key
}

/// Quotes a label as Go's `%q` (strconv.Quote) does.
fn quoted(s: &str) -> String {
    let mut quoted = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c if printable::is_unsafe(c) => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Appends the frames of a group (`printStackRecord`), without leading runtime frames unless there
/// are no others.
fn record(text: &mut String, runtime: &Runtime, frames: &[LogicalFrame<'_>]) {
    let rows: Vec<[String; 4]> = runtime
        .without_runtime(frames)
        .iter()
        .filter(|f| f.function != "runtime.goexit")
        .map(|f| {
            let name = printed_name(&f.function);
            let name = format!("{}+{:#x}", Printable(&name), f.pc.0 - f.entry.0);
            ["#".to_owned(), f.pc.to_string(), name, position(f)]
        })
        .collect();
    aligned(text, &rows);
    text.push('\n');
}

/// Pads columns with tabs, as text/tabwriter does with a tab width of 8 and a padding of 1.
fn aligned(text: &mut String, rows: &[[String; 4]]) {
    let length = |cell: &str| cell.chars().count();
    let width = |column: usize| {
        let widest = rows.iter().map(|r| length(&r[column])).max().unwrap_or(0);
        (widest + 1).next_multiple_of(8)
    };
    let widths = [width(0), width(1), width(2)];
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(cell);
            let tabs = (width - length(cell)).div_ceil(8);
            text.extend(std::iter::repeat_n('\t', tabs));
        }
        text.push_str(&row[3]);
        text.push('\n');
    }
}

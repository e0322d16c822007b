//! Writes the comments of a profile, one per line: what was recorded, how, and what is missing.

use std::fmt::Write as _;

use process::Identity;

use crate::stats::Stats;

/// The line for a target.
pub fn target(pid: i32, id: &Identity) -> String {
    let mut words = id.cmdline.iter().map(|w| w.to_string_lossy().into_owned());
    let mut line = words.next().unwrap_or_else(|| id.comm.clone());
    for word in words {
        let _ = write!(line, " {word}");
    }
    let line = one_line(&line);
    let container = id.container.as_ref().map(|c| format!(", container {c}")).unwrap_or_default();
    format!("target: pid {pid}{container}: {line}")
}

/// The line for the command that made the recording.
pub fn command(line: &str) -> String {
    format!("command: {}", one_line(line))
}

/// Arguments may contain control characters and have any length.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// The lines on how the profile was recorded and on what is missing.
pub fn recording(stats: &Stats) -> Vec<String> {
    let mut lines = vec![
        format!("exoprof version: {}", env!("CARGO_PKG_VERSION")),
        format!("kernel: {}", kernel()),
        format!("backend: {}", stats.backend),
        format!(
            "samples: {} kept, {} lost, {} truncated, {} broken",
            stats.samples.kept,
            stats.lost,
            stats.samples.truncated,
            stats.samples.broken_total()
        ),
    ];
    let reasons = stats.samples.broken.iter().map(|(why, n)| format!("broken: {n} × {why}"));
    lines.extend(reasons);
    let mut note = |n: u64, one: &str, many: &str, what: &str| match n {
        0 => {}
        1 => lines.push(format!("1 {one} {what}")),
        n => lines.push(format!("{n} {many} {what}")),
    };
    let samples = &stats.samples;
    note(samples.completed, "deep stack", "deep stacks", "completed from the live stack");
    note(samples.no_user_stack, "sample", "samples", "without a user stack (exiting or in exec)");
    note(stats.throttled, "time", "times", "the kernel throttled sampling on a CPU");
    note(stats.malformed, "record", "records", "could not be parsed");
    note(stats.unreadable_maps, "mapping", "mappings", "could not be read");
    let truncated = "returned zeros because a file was truncated meanwhile";
    note(stats.file_faults, "read", "reads", truncated);
    note(stats.nameless_frames, "address", "addresses", "without a name in the image");
    if samples.contexts_cut {
        let text = "too many calling contexts: later samples are attributed to their callers";
        lines.push(text.to_owned());
    }
    lines.extend(stats.kernel_names.iter().map(|why| format!("no kernel names: {why}")));
    lines.extend(stats.reattach_failed.iter().map(|why| format!("sampling ended early: {why}")));
    lines.extend(stats.unread_images.iter().map(|why| format!("not read: {}", one_line(why))));
    lines.extend(
        stats.damaged_images.iter().map(|path| format!("incomplete debug information: {path}")),
    );
    lines.extend(stats.notes.iter().map(|note| one_line(note)));
    lines
}

fn kernel() -> String {
    let read =
        |name| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    format!("{} {}", read("ostype").trim(), read("osrelease").trim())
}

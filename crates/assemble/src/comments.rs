//! Writes the comments of a profile, one per line: what was recorded, how, and what is missing.

use std::fmt::Write as _;

use process::Identity;

use crate::outcome::Stats;

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
    let mut note = |n: u64, what: &str| {
        if n > 0 {
            lines.push(format!("{n} {what}"));
        }
    };
    note(stats.samples.completed, "deep stacks completed from the live stack");
    note(stats.samples.no_user_stack, "samples without a user stack (exiting or in exec)");
    note(stats.throttled, "times the kernel throttled sampling on a CPU");
    note(stats.malformed, "records could not be parsed");
    note(stats.unreadable_maps, "mappings could not be read");
    note(stats.file_faults, "reads returned zeros because a file was truncated meanwhile");
    note(stats.nameless_frames, "addresses without a name in their image");
    note(
        u64::from(stats.samples.contexts_cut),
        "limit reached: too many calling contexts; later samples are attributed to their callers",
    );
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

//! Prints the summary of a recording.

use std::path::Path;

use collect::Outcome;
use console::terminal::{say, to_stderr};
use console::usage::Verbosity;

/// How many functions are listed.
const HEAVIEST: usize = 10;

/// Prints the file, its sample counts and losses, and the heaviest functions.
pub fn print(path: Option<&Path>, outcome: &Outcome, verbosity: Verbosity) {
    let stats = &outcome.stats;
    match path {
        Some(path) => say!("wrote {}", path.display()),
        None => say!("wrote the profile to stdout"),
    }
    let s = &stats.samples;
    say!(
        "samples: {} kept, {} lost, {} truncated, {} broken in {:.1}s",
        s.kept,
        stats.lost,
        s.truncated,
        s.broken_total(),
        stats.elapsed.as_secs_f64()
    );
    for (reason, n) in &s.broken {
        say!("  {n} broken: {reason}");
    }
    let of_cpu = outcome.profile.sample_types.last().is_some_and(|t| &*t.kind == "cpu");
    let used: i64 = outcome.profile.samples.iter().filter_map(|s| s.values.last()).sum();
    if s.kept == 0 && of_cpu && used > 0 {
        let ms = used / 1_000_000;
        say!("no samples, although the target used {ms} ms of CPU time");
    } else if s.kept == 0 && of_cpu {
        say!("no samples: the target used no CPU time");
    } else if s.kept == 0 {
        say!("no samples");
    }
    for warning in warnings(outcome) {
        say!("warning: {warning}");
    }
    for note in &stats.notes {
        say!("note: {note}");
    }
    if verbosity >= Verbosity::Verbose {
        say!("backend: {}", stats.backend);
        for comment in &outcome.profile.comments {
            say!("  {comment}");
        }
    }
    if s.kept > 0 {
        to_stderr(format_args!("{}", heaviest(&outcome.profile)));
    }
}

/// The heaviest functions, in the form of `go tool pprof -top`.
fn heaviest(profile: &pprof::Profile) -> String {
    let options =
        report::Options { node_count: Some(HEAVIEST), compact: true, ..report::Options::default() };
    let mut text = Vec::new();
    // Our profiles have a sample type, and writing to memory does not fail.
    let written = report::Report::new(profile, options).and_then(|r| r.write(&mut text));
    written
        .map_or_else(|e| format!("no summary: {e}\n"), |()| String::from_utf8_lossy(&text).into())
}

fn warnings(outcome: &Outcome) -> Vec<String> {
    let stats = &outcome.stats;
    let s = &stats.samples;
    let mut out = Vec::new();
    let percent = |n: u64| n as f64 * 100.0 / s.kept.max(1) as f64;
    if stats.lost > 0 && percent(stats.lost) > 1.0 {
        let records = if stats.lost == 1 { "record" } else { "records" };
        out.push(format!(
            "lost {} {records}; fix: lower --freq, or give exoprof more CPU time",
            stats.lost
        ));
    }
    let incomplete = s.truncated + s.broken_total();
    if percent(incomplete) > 1.0 {
        out.push(format!("{:.1}% of the stacks are incomplete", percent(incomplete)));
    }
    if stats.throttled > 0 {
        let times = if stats.throttled == 1 { "time" } else { "times" };
        out.push(format!("the kernel throttled sampling {} {times}", stats.throttled));
    }
    out.extend(stats.unread_images.iter().map(|why| format!("not read: {why}")));
    out.extend(stats.kernel_names.iter().map(|why| format!("kernel frames without names: {why}")));
    out.extend(stats.reattach_failed.iter().map(|why| format!("sampling ended early: {why}")));
    out
}

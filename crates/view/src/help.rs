//! Formats the shell's help and options.

use pprof::Profile;

use super::commands::COMMANDS;
use super::settings::{SETTINGS, Setting, Settings};

/// The help on all commands and options, or on one of them.
pub fn help(word: &str) -> Result<String, String> {
    if word.is_empty() {
        return Ok(overview());
    }
    if let Some(c) = COMMANDS.iter().find(|c| c.name == word) {
        return Ok(format!("{}\n  Usage:\n    {} {}", c.about, c.name, c.usage));
    }
    let of_setting = |s: &Setting| {
        let choice = s.choices().iter().find(|c| c.name == word).map(|c| c.about);
        if s.name == word { Some(describe(s)) } else { choice.map(str::to_owned) }
    };
    SETTINGS.iter().find_map(of_setting).ok_or_else(|| format!("unknown command: {word}"))
}

fn describe(setting: &Setting) -> String {
    let choices: Vec<&str> = setting.choices().iter().map(|c| c.name).collect();
    match choices.is_empty() {
        true => setting.about.to_owned(),
        false => format!("{}: {}", setting.about, choices.join(", ")),
    }
}

fn overview() -> String {
    let row = |name: &str, about: &str| format!("    {name:<20} {about}");
    let mut lines = vec!["  Commands:".to_owned()];
    lines.extend(COMMANDS.iter().map(|c| row(c.name, c.about)));
    let others = [
        ("name=value", "Set an option"),
        ("TYPE", "Set sample_index to that type"),
        (":", "Clear focus, ignore, hide, tagfocus and tagignore"),
        ("o/options", "Print the options and their values"),
        ("help NAME", "Print help on a command or option"),
        ("q/quit/exit/^D", "Quit"),
    ];
    lines.extend(others.iter().map(|(name, about)| row(name, about)));
    lines.push("\n  Options:".to_owned());
    let mut settings: Vec<&Setting> = SETTINGS.iter().collect();
    settings.sort_by_key(|s| s.name);
    for setting in settings {
        lines.push(row(setting.name, setting.about));
        lines.extend(setting.choices().iter().map(|c| row(&format!("  {}", c.name), c.about)));
    }
    lines.join("\n")
}

/// The options and their values, in the form of `go tool pprof`.
pub fn options(profile: &Profile, settings: &Settings) -> String {
    let mut lines: Vec<String> = (SETTINGS.iter())
        .filter(|s| s.name != "source_path")
        .map(|s| {
            let (value, comment) = value_and_comment(s, profile, settings);
            let comment = if comment.is_empty() { comment } else { format!("//: {comment}") };
            format!("  {:<25} = {value:<20} {comment}", s.name)
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

fn value_and_comment(
    setting: &Setting,
    profile: &Profile,
    settings: &Settings,
) -> (String, String) {
    let value = setting.value(settings);
    if !setting.choices().is_empty() {
        let mut names: Vec<&str> = setting.choices().iter().map(|c| c.name).collect();
        names.sort_unstable();
        let value = if value.is_empty() { "(default)".to_owned() } else { value };
        return (value, format!("[{}]", names.join(" | ")));
    }
    match (setting.name, &*value) {
        ("sample_index", _) => {
            let types: Vec<&str> = profile.sample_types.iter().map(|t| &*t.kind).collect();
            let default = types.last().copied().unwrap_or_default();
            let value = if value.is_empty() { default.to_owned() } else { value };
            (value, printable::line(&format!("[{}]", types.join(" | "))).into_owned())
        }
        ("nodecount", "-1") => (value, "default".to_owned()),
        (_, "") => ("\"\"".to_owned(), String::new()),
        _ => (value, String::new()),
    }
}

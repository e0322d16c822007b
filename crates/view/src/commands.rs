//! Parses the shell's commands that print reports.

use report::Form;

use super::settings::{self, Settings};

/// A command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The arguments after the name.
    pub usage: &'static str,
    /// What it produces.
    pub makes: CommandOutput,
}

/// What a command produces.
#[derive(Clone, Copy)]
pub enum CommandOutput {
    /// A report.
    Report(fn() -> Form),
    /// A report on entries that match the first word after the name.
    ReportOn(fn(String) -> Form),
    /// The profile itself, in a file.
    Profile,
}

const FILTERS: &str = "[n] [focus_regex]* [-ignore_regex]* [>file]";
const SORTED: &str = "[n] [-cum] [focus_regex]* [-ignore_regex]* [>file]";
const ON: &str = "regex [focus_regex]* [-ignore_regex]* [>file]";

const fn command(
    name: &'static str,
    usage: &'static str,
    makes: CommandOutput,
    about: &'static str,
) -> Command {
    Command { name, about, usage, makes }
}

/// All commands.
pub static COMMANDS: &[Command] = &[
    command(
        "comments",
        "[>file]",
        CommandOutput::Report(|| Form::Comments),
        "Print the profile's comments",
    ),
    command(
        "collapsed",
        FILTERS,
        CommandOutput::Report(|| Form::Collapsed),
        "Print one line per stack",
    ),
    command(
        "list",
        ON,
        CommandOutput::ReportOn(Form::List),
        "Print the annotated source of matching functions",
    ),
    command(
        "peek",
        ON,
        CommandOutput::ReportOn(Form::Peek),
        "Print the callers and callees of matching entries",
    ),
    command("proto", ">file", CommandOutput::Profile, "Write the profile to a file"),
    command("raw", FILTERS, CommandOutput::Report(|| Form::Raw), "Print the whole profile as text"),
    command(
        "tags",
        "[tag_regex]* [-ignore_regex]* [>file]",
        CommandOutput::Report(|| Form::Tags),
        "Print labels, with the weight of each value",
    ),
    command("text", SORTED, CommandOutput::Report(|| Form::Top), "The same as top"),
    command("top", SORTED, CommandOutput::Report(|| Form::Top), "Print the heaviest entries"),
    command("traces", FILTERS, CommandOutput::Report(|| Form::Traces), "Print every sample"),
    command(
        "tree",
        SORTED,
        CommandOutput::Report(|| Form::Tree),
        "Print entries with their callers and callees",
    ),
];

/// Commands of pprof that require graphviz, a browser or a disassembler.
const ELSEWHERE: &[&str] = &[
    "callgrind",
    "disasm",
    "dot",
    "eog",
    "evince",
    "gif",
    "gv",
    "kcachegrind",
    "pdf",
    "png",
    "ps",
    "svg",
    "topproto",
    "web",
    "weblist",
];

/// Finds the command of this name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name)
}

/// A parsed line.
pub struct Order {
    /// The command.
    pub command: &'static Command,
    /// The regular expression that selects the report's entries.
    pub on: String,
    /// The options, with those of the line.
    pub settings: Settings,
}

/// Parses a line: a command and its words. Options in it apply only to this command.
pub fn parse(words: &[&str], settings: &Settings) -> Result<Order, String> {
    let mut words = words.iter().copied();
    let name = words.next().unwrap_or_default();
    let mut settings = settings.clone();
    let command = match find(name) {
        Some(command) => command,
        None => {
            let (command, count) = with_digits(name).ok_or_else(|| unknown(name, words.next()))?;
            settings.node_count = count;
            command
        }
    };
    let mut on = String::new();
    if let CommandOutput::ReportOn(_) = command.makes {
        let word = words.next();
        on = word.ok_or_else(|| format!("command {name} requires an argument"))?.to_owned();
    }
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        if let Ok(count) = word.parse::<i32>() {
            settings.node_count = count.into();
        } else if let Some(file) = word.strip_prefix('>') {
            settings.output = match file {
                "" => words.next().ok_or("unexpected end of line after >")?.to_owned(),
                file => file.to_owned(),
            };
        } else if matches!(word, "-cum" | "--cum") {
            settings.sort_by_cum();
        } else if let Some(word) = word.strip_prefix('-') {
            unwanted.push(word);
        } else {
            wanted.push(word);
        }
    }
    let filters = &mut settings.filters;
    let (focus, ignore) = match command.name {
        "tags" => (&mut filters.tag_focus, &mut filters.tag_ignore),
        _ => (&mut filters.focus, &mut filters.ignore),
    };
    for (words, filter) in [(wanted, focus), (unwanted, ignore)] {
        let joined = words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join("|");
        if !joined.is_empty() {
            *filter = joined;
        }
    }
    if settings.node_count == -1 && matches!(command.name, "top" | "text") {
        settings.node_count = 10;
    }
    Ok(Order { command, on, settings })
}

/// `top10` is `top 10`.
fn with_digits(name: &str) -> Option<(&'static Command, i64)> {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let count = name[letters.len()..].parse::<i32>().ok()?;
    Some((find(letters)?, count.into()))
}

fn unknown(name: &str, next: Option<&str>) -> String {
    if settings::find(name).is_some() {
        return format!("did you mean: {name}={}", next.unwrap_or("<val>"));
    }
    if ELSEWHERE.contains(&name) {
        return format!("{name} is only available in go tool pprof");
    }
    format!("unrecognized command: {name:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &str) -> Result<Order, String> {
        parse(&line.split_whitespace().collect::<Vec<_>>(), &Settings::default())
    }

    #[test]
    fn lines() {
        let top = order("top5 -cum main -runtime parse > out").unwrap();
        assert_eq!((top.command.name, top.settings.node_count), ("top", 5));
        assert_eq!(top.settings.filters.focus, "main|parse");
        assert_eq!(top.settings.filters.ignore, "runtime");
        assert_eq!(top.settings.output, "out");
        assert_eq!(order("top").unwrap().settings.node_count, 10);
        assert_eq!(order("top 3").unwrap().settings.node_count, 3);
        let list = order("list main\\. >f").unwrap();
        assert_eq!((&*list.on, &*list.settings.output), ("main\\.", "f"));
        let tags = order("tags a -b").unwrap().settings.filters;
        assert_eq!((&*tags.tag_focus, &*tags.tag_ignore, &*tags.focus), ("a", "b", ""));
    }

    #[test]
    fn mistakes() {
        let cases = [
            ("list", "command list requires an argument"),
            ("top >", "unexpected end of line after >"),
            ("focus main", "did you mean: focus=main"),
            ("lines", "did you mean: lines=<val>"),
            ("web", "web is only available in go tool pprof"),
            ("toop", "unrecognized command: \"toop\""),
            ("toop10", "unrecognized command: \"toop10\""),
        ];
        for (line, error) in cases {
            assert_eq!(order(line).err().as_deref(), Some(error));
        }
    }
}

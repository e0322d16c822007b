//! The interactive shell.

use console::terminal::{in_one_line, say};
use console::usage::Verbosity;
use pprof::Profile;
use report::{Form, Report};

use super::completion::Completion;
use super::input::Input;
use super::settings::{self, Settings};
use super::{commands, help, order};

const PROMPT: &str = "(exoprof) ";

/// A comment after a value.
const COMMENT: &str = "//:";

/// What the shell does next.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

/// Reads and carries out commands until the end.
pub fn run(profile: &Profile, verbosity: Verbosity) -> anyhow::Result<()> {
    if verbosity > Verbosity::Quiet {
        greet(profile)?;
    }
    let mut input = Input::new(Completion::new(profile))?;
    let mut shell = Shell { profile, settings: Settings::default() };
    while let Some(line) = input.line(PROMPT)? {
        if shell.line(&line) == Next::Leave {
            break;
        }
    }
    Ok(())
}

fn greet(profile: &Profile) -> anyhow::Result<()> {
    let options = Settings::default().options(Form::Top).map_err(anyhow::Error::msg)?;
    let report = Report::new(profile, options)?;
    for line in report.about() {
        say(&line);
    }
    if report.total() == 0 && profile.sample_types.len() > 1 {
        say("No samples were found with the default sample value type.");
        say("Try \"sample_index\" command to analyze different sample values.\n");
    }
    say("Entering interactive mode (type \"help\" for commands, \"o\" for options)");
    Ok(())
}

/// Prints what is no report: standard output is kept for those.
fn say(text: &str) {
    let safe = |c: char| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c };
    say!("{}", text.chars().map(safe).collect::<String>());
}

struct Shell<'p> {
    profile: &'p Profile,
    settings: Settings,
}

impl Shell<'_> {
    fn line(&mut self, line: &str) -> Next {
        for command in self.expand(line.trim()) {
            if let Some(done) = self.assign(&command) {
                if let Err(e) = done {
                    say(&e);
                }
                continue;
            }
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["o" | "options", ..] => say(&help::options(self.profile, &self.settings)),
                ["exit" | "quit" | "q", ..] => return Next::Leave,
                ["help", rest @ ..] => match help::help(&rest.join(" ")) {
                    Ok(text) | Err(text) => say(&text),
                },
                words => {
                    let done = commands::parse(words, &self.settings)
                        .map_err(anyhow::Error::msg)
                        .and_then(|order| order::carry_out(self.profile, &order));
                    if let Err(e) = done {
                        say(&in_one_line(&e));
                    }
                }
            }
        }
        Next::GoOn
    }

    /// A line that stands for others: `:`, or the name of a sample type.
    fn expand(&self, line: &str) -> Vec<String> {
        if line == ":" {
            return ["focus=", "ignore=", "hide=", "tagfocus=", "tagignore="]
                .map(str::to_owned)
                .to_vec();
        }
        let is_type = |name: &str| self.profile.sample_types.iter().any(|t| &*t.kind == name);
        let selects = |name: &str| format!("sample_index={name}");
        let mean = |value: &str, name: &str| vec![format!("mean={value}"), selects(name)];
        match (line.strip_prefix("total_"), line.strip_prefix("mean_")) {
            _ if is_type(line) => vec![selects(line)],
            (Some(name), _) if is_type(name) => mean("0", name),
            (_, Some(name)) if is_type(name) => mean("1", name),
            _ => vec![line.to_owned()],
        }
    }

    /// Carries out `name=value`, or `name` alone for a switch. `None` for anything else.
    fn assign(&mut self, line: &str) -> Option<Result<(), String>> {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => {
                (name, Some(value.rsplit_once(COMMENT).map_or(value, |(value, _)| value).trim()))
            }
            None => (line, None),
        };
        let name = name.trim();
        let setting = settings::find(name)?;
        let value = match value {
            Some(value) => value,
            None if setting.is_switch(name) => "",
            None => {
                return Some(Err(format!("please specify a value, e.g. {name}=<val>")));
            }
        };
        if name == "sample_index" {
            let index = match report::sample_type_index(self.profile, Some(value)) {
                Ok(index) => index,
                Err(e) => return Some(Err(e.to_string())),
            };
            let kind = self.profile.sample_types[index].kind.to_string();
            return Some(setting.set(&mut self.settings, name, &kind));
        }
        Some(setting.set(&mut self.settings, name, value))
    }
}

//! Runs the interactive shell.

use console::terminal::in_one_line;
use pprof::Profile;
use report::{Form, Report, ReportError};

use crate::completion::Completion;
use crate::error::ViewError;
use crate::input::Input;
use crate::settings::{self, Settings};
use crate::terminal::Terminal;
use crate::{commands, help, order};

const PROMPT: &str = "(exoprof) ";

/// A comment after a value.
const COMMENT: &str = "//:";

/// What the shell does next.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

/// Reads and runs commands until the end of input. `greets`: first print the header.
pub fn run(profile: &Profile, greets: bool, terminal: &mut dyn Terminal) -> Result<(), ViewError> {
    let mut shell = Shell { profile, settings: Settings::default(), terminal };
    if greets {
        shell.greet()?;
    }
    let mut input = Input::new(Completion::new(profile))?;
    while let Some(line) = input.line(PROMPT)? {
        if shell.line(&line) == Next::Leave {
            break;
        }
    }
    Ok(())
}

struct Shell<'p> {
    profile: &'p Profile,
    settings: Settings,
    terminal: &'p mut dyn Terminal,
}

impl Shell<'_> {
    fn greet(&mut self) -> Result<(), ReportError> {
        // The initial settings are always valid.
        let options = self.settings.options(Form::Top).unwrap_or_default();
        let report = Report::new(self.profile, options)?;
        for line in report.about() {
            self.say(&line);
        }
        if report.total() == 0 && self.profile.sample_types.len() > 1 {
            self.say("No samples were found with the default sample value type.");
            self.say("Try \"sample_index\" command to analyze different sample values.\n");
        }
        self.say("Entering interactive mode (type \"help\" for commands, \"o\" for options)");
        Ok(())
    }

    /// Prints text other than reports. Names in a profile may be any bytes.
    fn say(&mut self, text: &str) {
        self.terminal.say(&printable::lines(text));
    }

    fn line(&mut self, line: &str) -> Next {
        for command in self.expand(line.trim()) {
            if let Some(done) = self.assign(&command) {
                if let Err(e) = done {
                    self.say(&e);
                }
                continue;
            }
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["o" | "options", ..] => {
                    self.say(&help::options(self.profile, &self.settings));
                }
                ["exit" | "quit" | "q", ..] => return Next::Leave,
                ["help", rest @ ..] => match help::help(&rest.join(" ")) {
                    Ok(text) | Err(text) => self.say(&text),
                },
                words => {
                    if let Err(e) = self.carry_out(words) {
                        self.say(&e);
                    }
                }
            }
        }
        Next::GoOn
    }

    fn carry_out(&mut self, words: &[&str]) -> Result<(), String> {
        let order = commands::parse(words, &self.settings)?;
        let done = order::carry_out(self.profile, &order, self.terminal);
        done.map_err(|e| in_one_line(&e))
    }

    /// Expands shortcuts: `:`, or the name of a sample type.
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

    /// Sets an option: `name=value`, or `name` alone for a switch. `None` for anything else.
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

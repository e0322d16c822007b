//! Completes the names of commands, options and functions.

use std::sync::Arc;

use pprof::Profile;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::commands::COMMANDS;
use super::settings::SETTINGS;

/// Maximum number of candidates: a longer list does not help.
const MAX_CANDIDATES: usize = 200;

/// The names that the shell can complete.
pub struct Completion {
    functions: Vec<Arc<str>>,
    types: Vec<Arc<str>>,
}

impl Completion {
    /// Collects the names in a profile, except those with control characters.
    pub fn new(profile: &Profile) -> Self {
        let mut functions: Vec<Arc<str>> = (profile.functions.iter())
            .map(|f| Arc::clone(&f.name))
            .filter(|name| !name.is_empty() && !name.chars().any(char::is_control))
            .collect();
        functions.sort_unstable();
        functions.dedup();
        let types = profile.sample_types.iter().map(|t| Arc::clone(&t.kind)).collect();
        Self { functions, types }
    }

    /// Where the word under the cursor begins, and its completions.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (before, word) = line.split_at(start);
        let first = before.split_whitespace().next();
        let found = match first {
            None => self.names(word),
            Some("help") => self.names(word).into_iter().map(|n| n.replace('=', "")).collect(),
            Some("tags") => Vec::new(),
            Some(_) => {
                let (sign, word) = match word.strip_prefix('-') {
                    Some(word) => ("-", word),
                    None => ("", word),
                };
                self.functions_with(word).map(|f| format!("{sign}{}", quoted(f))).collect()
            }
        };
        (start, found)
    }

    fn names(&self, word: &str) -> Vec<String> {
        if let Some((name, value)) = word.split_once('=') {
            let setting = SETTINGS.iter().find(|s| s.name == name);
            let choices = setting.into_iter().flat_map(|s| s.choices()).map(|c| c.name);
            let types = self.types.iter().map(|t| &**t).filter(|_| name == "sample_index");
            let values = choices.chain(types).filter(|v| v.starts_with(value));
            return values.map(|v| format!("{name}={v}")).collect();
        }
        let commands = COMMANDS.iter().map(|c| c.name.to_owned());
        let others = ["help", "options", "quit"].map(str::to_owned);
        let settings = SETTINGS.iter().flat_map(|s| {
            let own = match s.choices() {
                [] if s.is_switch(s.name) => s.name.to_owned(),
                _ => format!("{}=", s.name),
            };
            std::iter::once(own).chain(s.choices().iter().map(|c| c.name.to_owned()))
        });
        let types = self.types.iter().map(|t| t.to_string());
        let mut all: Vec<String> = commands.chain(others).chain(settings).chain(types).collect();
        all.retain(|name| name.starts_with(word));
        all.sort_unstable();
        all.dedup();
        all
    }

    fn functions_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        let with = self.functions.iter().map(|f| &**f).filter(move |f| f.contains(word));
        with.take(if word.is_empty() { 0 } else { MAX_CANDIDATES })
    }
}

/// Turns a function's name into a regular expression without white space that matches it.
fn quoted(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            c if c.is_whitespace() => out.push('.'),
            '(' | ')' | '[' | ']' | '{' | '}' | '*' | '+' | '?' | '^' | '$' | '|' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(line.get(..at).unwrap_or(line)))
    }
}

impl Helper for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let completion = Completion {
            functions: ["main.(*T).run", "main.main", "x\u{20}y"].map(Into::into).to_vec(),
            types: vec!["cpu".into()],
        };
        let cases: [(&str, usize, &[&str]); 7] = [
            ("pee", 0, &["peek"]),
            ("tagf", 0, &["tagfocus="]),
            ("noin", 0, &["noinlines"]),
            ("sort=", 0, &["sort=cum", "sort=flat"]),
            ("sample_index=c", 0, &["sample_index=cpu"]),
            ("list T", 5, &["main.\\(\\*T\\).run"]),
            ("top -x", 4, &["-x.y"]),
        ];
        for (line, start, candidates) in cases {
            let expected = candidates.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
            assert_eq!(completion.candidates(line), (start, expected), "{line}");
        }
    }
}

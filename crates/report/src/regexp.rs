//! Compiles regular expressions in Go's syntax.
//!
//! The `regex` crate accepts nearly the same syntax. The differences are translated: in Go, Perl
//! classes are ASCII, `{` without a repetition is literal, `\Q…\E` quotes, and classes have no set
//! operations.

use regex::bytes::Regex;

use crate::ReportError;

/// A compiled expression, with its text as it was given.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    regex: Regex,
    text: String,
}

impl Pattern {
    /// Compiles an expression. Errors name `option`, the source of the expression.
    pub(crate) fn new(option: &'static str, text: &str) -> Result<Self, ReportError> {
        let regex = Regex::new(&translate(text)).map_err(|e| ReportError::Pattern {
            option,
            pattern: text.to_owned(),
            reason: reason(&e),
        })?;
        Ok(Self { regex, text: text.to_owned() })
    }

    /// Compiles the expression of an option that may be empty or missing.
    pub(crate) fn optional(
        option: &'static str,
        text: Option<&str>,
    ) -> Result<Option<Self>, ReportError> {
        text.filter(|t| !t.is_empty()).map(|text| Self::new(option, text)).transpose()
    }

    pub(crate) fn is_match(&self, name: &str) -> bool {
        self.regex.is_match(name.as_bytes())
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// The last line of a message, without the drawing of the expression.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => escape(after, &mut out),
            '[' => class(after, &mut out),
            '{' if repetition(after).is_none() => {
                out.push_str("\\{");
                after
            }
            '{' => {
                // Copied as a whole, so that its closing brace is not escaped.
                let len = repetition(after).unwrap_or(0);
                out.push('{');
                out.push_str(&after[..len]);
                &after[len..]
            }
            '}' => {
                out.push_str("\\}");
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
    }
    out
}

/// The length of `n}`, `n,}` or `n,m}`.
fn repetition(text: &str) -> Option<usize> {
    let len = text.find('}')?;
    let (min, max) = text[..len].split_once(',').unwrap_or((&text[..len], ""));
    let is_number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (!min.is_empty() && is_number(min) && is_number(max)).then_some(len + 1)
}

/// The ASCII class of a Perl class.
const fn perl_class(c: char) -> Option<&'static str> {
    Some(match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        _ => return None,
    })
}

/// Translates the escape sequence after a backslash. Returns the rest of the text.
fn escape<'t>(text: &'t str, out: &mut String) -> &'t str {
    let Some(c) = text.chars().next() else {
        out.push('\\');
        return text;
    };
    let after = &text[c.len_utf8()..];
    if let Some(class) = perl_class(c) {
        out.push_str(class);
        return after;
    }
    match c {
        'Q' => {
            let (quoted, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return after;
        }
        'b' => out.push_str(r"(?-u:\b)"),
        'B' => out.push_str(r"(?-u:\B)"),
        'p' | 'P' | 'x' if after.starts_with('{') => {
            let end = after.find('}').map_or(after.len(), |e| e + 1);
            out.push('\\');
            out.push(c);
            out.push_str(&after[..end]);
            return &after[end..];
        }
        _ if c.is_ascii_punctuation() => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        _ => {
            out.push('\\');
            out.push(c);
        }
    }
    after
}

/// Translates the class after its `[`. Returns the rest of the text.
fn class<'t>(text: &'t str, out: &mut String) -> &'t str {
    out.push('[');
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut is_first = true;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' if !is_first => {
                out.push(']');
                return after;
            }
            '\\' => escape(after, out),
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]").map_or(0, |e| e + 2);
                out.push('[');
                out.push_str(&after[..end]);
                &after[end..]
            }
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
        is_first = false;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matches: &[&str], others: &[&str]) {
        let pattern = Pattern::new("focus", pattern).unwrap();
        for name in matches {
            assert!(pattern.is_match(name), "{pattern:?} {name}");
        }
        for name in others {
            assert!(!pattern.is_match(name), "{pattern:?} {name}");
        }
    }

    #[test]
    fn go_syntax() {
        check(r"main\.work$", &["main.work"], &["mainwork", "main.worker"]);
        check(r"^(a|b)\b", &["a.x", "b"], &["ab"]);
        check(r"\Qa.(*b)\E$", &["a.(*b)"], &["a.b"]);
        check(r"struct {", &["struct {int}"], &["struct"]);
        check(r"a{2}b{1,}c{,3}", &["aabbc{,3}"], &["aabc"]);
        check(r"f}", &["f}"], &["f"]);
        check(r"[[a]", &["[", "a"], &["b"]);
        check(r"[]a]b", &["]b", "ab"], &["b"]);
        check(r"[a&&b]$", &["&", "b"], &["c"]);
        check(r"^[[:alpha:]\d]+$", &["a1"], &["a_"]);
        check(r"^\w$", &["a"], &["é"]);
        check(r"^.$", &["é"], &[""]);
        check(r"\<b\>", &["<b>"], &["b"]);
        check(r"(?i)HOT", &["hot"], &["cold"]);
        check(r"\x{41}\pL", &["AB"], &["A1"]);
    }

    #[test]
    fn errors_are_one_line() {
        for broken in ["(", "*", "a**b(", "[", "\\", "(?P<", "a{2000}{2000}"] {
            let error = Pattern::new("hide", broken).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

//! Escapes what a name could do to the text around it: forge lines, control terminals, reverse text.
//!
//! Processes, threads, functions, files and labels may have any name. A profile keeps it as it is;
//! everything that is printed, logged or sent as text shows [`Printable`] instead. Escaped are
//! control characters (C0, DEL, C1), line and paragraph separators, and the characters that change
//! the direction of text: as `\n`, `\t`, `\r`, `\x1b`, `\u{9b}`. Backslashes remain single, so that
//! all other names are printed unchanged.

#![deny(clippy::print_stderr, clippy::print_stdout)]
// Text comes from targets.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::indexing_slicing
    )
)]

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

/// A name as one line of text. Width and alignment of the format apply to the escaped text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printable<'t>(pub &'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&line(self.0))
    }
}

/// Text as one line: as [`Printable`], without a copy if nothing is escaped.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe)
}

/// Text that may have several lines: all but `\n` and `\t` is escaped.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe_in_lines)
}

/// JSON text with the escapes of JSON for what serializers leave as it is in strings, such as DEL,
/// C1 and U+202E. Its meaning does not change.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    // C0 characters cannot be in a string here: they are white space between tokens.
    let in_string = |c| is_unsafe(c) && c >= '\x7f';
    if !text.contains(in_string) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if in_string(c) {
            // All of them have four digits or less.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Whether [`Printable`] escapes the character.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    match c {
        ' '..='~' => false,
        // Line and paragraph separators.
        '\u{2028}' | '\u{2029}' => true,
        // Marks, embeddings, overrides and isolates of direction.
        '\u{61c}' | '\u{200e}' | '\u{200f}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

fn is_unsafe_in_lines(c: char) -> bool {
    is_unsafe(c) && c != '\n' && c != '\t'
}

fn escaped(text: &str, is_unsafe: fn(char) -> bool) -> Cow<'_, str> {
    // Most names. Without a branch for each byte this takes almost no time.
    let plain = text.bytes().fold(true, |plain, b| plain & (b' '..0x7f).contains(&b));
    if plain || !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().saturating_add(16));
    for c in text.chars() {
        if is_unsafe(c) {
            escape(c, &mut out);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn escape(c: char, out: &mut String) {
    // Writing to a string does not fail.
    let _ = match c {
        '\n' | '\t' | '\r' => write!(out, "{}", c.escape_default()),
        c if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
        c => write!(out, "\\u{{{:x}}}", u32::from(c)),
    };
}

/// Escapes what is written through it, as [`lines`] does. Bytes that are not UTF-8 remain, except
/// 0x80 to 0x9f, which are control characters in eight-bit terminals.
///
/// A character must not be divided between two writes.
#[derive(Debug)]
pub struct SafeWriter<W>(pub W);

impl<W: Write> Write for SafeWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.utf8_chunks() {
            self.0.write_all(lines(chunk.valid()).as_bytes())?;
            for byte in chunk.invalid() {
                match byte {
                    0x80..=0x9f => write!(self.0, "\\x{byte:02x}")?,
                    byte => self.0.write_all(std::slice::from_ref(byte))?,
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, &str); 9] = [
        ("e\n1 0x2 main", r"e\n1 0x2 main"),
        ("a\tb\rc", r"a\tb\rc"),
        ("e\u{1b}]0;pwn\u{7}\u{1b}[31m", r"e\x1b]0;pwn\x07\x1b[31m"),
        ("\0\u{7f}", r"\x00\x7f"),
        ("\u{9b}2J\u{85}", r"\u{9b}2J\u{85}"),
        ("a\u{2028}b\u{2029}", r"a\u{2028}b\u{2029}"),
        ("\u{202e}gpj\u{2066}\u{200f}\u{61c}", r"\u{202e}gpj\u{2066}\u{200f}\u{61c}"),
        (r"C:\new\x1b", r"C:\new\x1b"),
        ("größe<T, 'a>::λ 漢字 👩‍🔬", "größe<T, 'a>::λ 漢字 👩‍🔬"),
    ];

    #[test]
    fn names_are_one_line_without_controls() {
        for (name, shown) in NAMES {
            assert_eq!(line(name), shown);
            assert_eq!(Printable(name).to_string(), shown);
            assert!(!line(name).contains(is_unsafe));
        }
        assert!(matches!(line("clean"), Cow::Borrowed("clean")));
        assert_eq!(format!("{:>8}|{:<5}|", Printable("a\nb"), Printable("é")), r"    a\nb|é    |");
    }

    #[test]
    fn lines_keep_line_breaks_and_tabs() {
        assert_eq!(lines("a\n\tb\u{1b}\r\n\u{85}"), "a\n\tb\\x1b\\r\n\\u{85}");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "{\"a\": \"\u{9b}\u{7f}\u{202e}\\n é\"}\n";
        assert_eq!(json(text), "{\"a\": \"\\u009b\\u007f\\u202e\\n é\"}\n");
        assert!(matches!(json("{}\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_writer_keeps_what_is_not_utf_8_and_does_no_harm() {
        let mut out = SafeWriter(Vec::new());
        out.write_all(b"caf\xe9 \x9b31m \xc2\x9b\n\tx\x1b \xff\n").unwrap();
        assert_eq!(out.0, b"caf\xe9 \\x9b31m \\u{9b}\n\tx\\x1b \xff\n");
        let mut seen = SafeWriter(Vec::new());
        for (name, shown) in NAMES {
            seen.0.clear();
            write!(seen, "{}", Printable(name)).unwrap();
            assert_eq!(seen.0, shown.as_bytes());
        }
    }
}

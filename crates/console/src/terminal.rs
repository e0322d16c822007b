//! Writing to terminals.

use std::error::Error;
use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes a line to stderr, as `eprintln!` does, but does not panic where nobody reads it any more
/// (`exoprof record … 2>&1 | head`): what was recorded is written all the same.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::terminal::to_stderr(format_args!("{}\n", format_args!($($argument)*)))
    };
}
pub use say;

/// Writes to stderr, if it is still read, what does not command a terminal.
pub fn to_stderr(text: Arguments<'_>) {
    let _ = Printable(io::stderr().lock()).write_all(text.to_string().as_bytes());
}

/// An error and what led to it, in one line. Libraries' messages may end with their cause's already,
/// for those who show only one: it is not said twice.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let link = error.to_string();
        if line.is_empty() {
            line = link;
        } else if !line.contains(&link) {
            line = format!("{line}: {link}");
        }
    }
    line
}

/// What is written to a terminal must not command it: names in a profile may be any bytes.
pub struct Printable<W>(pub W);

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_unsafe = |b: &u8| b.is_ascii_control() && !matches!(b, b'\n' | b'\t');
        let safe: Vec<u8> = bytes.iter().map(|b| if is_unsafe(b) { b'?' } else { *b }).collect();
        self.0.write_all(&safe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot map a ring: {source}")]
        struct Ring {
            source: io::Error,
        }
        #[derive(Debug, thiserror::Error)]
        #[error("cannot record cpu")]
        struct Recording(#[source] Ring);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x")]
        struct Reading(#[source] io::Error);
        let source = || io::Error::from_raw_os_error(2);
        let system = source().to_string();
        let told = Recording(Ring { source: source() });
        assert_eq!(in_one_line(&told), format!("cannot record cpu: cannot map a ring: {system}"));
        assert_eq!(in_one_line(&Reading(source())), format!("cannot read x: {system}"));
    }
}

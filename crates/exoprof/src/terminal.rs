//! Writing to terminals.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes a line to stderr, as `eprintln!` does, but does not panic where nobody reads it any more
/// (`exoprof record … 2>&1 | head`): what was recorded is written all the same.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::terminal::to_stderr(format_args!("{}\n", format_args!($($argument)*)))
    };
}
pub(crate) use say;

/// Writes to stderr, if it is still read, what does not command a terminal.
pub fn to_stderr(text: Arguments<'_>) {
    let _ = Printable(io::stderr().lock()).write_all(text.to_string().as_bytes());
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

/// An error with its causes in one line. Some say their cause's words themselves.
pub fn with_causes(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn causes_are_said_once() {
        let cause = std::io::Error::from_raw_os_error(1);
        let said = format!("cannot open it ({cause}); to mend it: sudo");
        let e = anyhow::Error::from(cause).context(said.clone()).context("cannot record block");
        assert_eq!(super::with_causes(&e), format!("cannot record block: {said}"));
        let plain = anyhow::anyhow!("no entry").context("cannot read");
        assert_eq!(super::with_causes(&plain), "cannot read: no entry");
    }
}

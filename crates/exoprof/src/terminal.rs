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

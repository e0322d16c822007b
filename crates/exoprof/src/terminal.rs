//! Writing to terminals.

use std::io::{self, Write};

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

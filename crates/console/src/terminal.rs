//! Writes to terminals safely.

use std::error::Error;
use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes a line to stderr like `eprintln!`, but does not panic when the reader has closed the pipe
/// (`exoprof record … 2>&1 | head`): the profile must still be written.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::terminal::to_stderr(format_args!("{}\n", format_args!($($argument)*)))
    };
}
pub use say;

/// Writes to stderr without terminal control characters, and ignores a closed pipe.
pub fn to_stderr(text: Arguments<'_>) {
    let _ = Printable(io::stderr().lock()).write_all(text.to_string().as_bytes());
}

/// Writes to stdout. A reader that closes the pipe early, such as `head`, is not an error.
///
/// # Errors
/// Stdout cannot be written.
pub fn to_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Formats an error and its causes in one line. Messages of some libraries already end with their
/// cause's message, which is not repeated.
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

/// Replaces control characters: names in a profile may be any bytes, and must not control the
/// terminal.
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
    fn causes_are_not_repeated() {
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

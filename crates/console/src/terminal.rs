//! Writes to terminals safely.

use std::error::Error;
use std::fmt::Arguments;
use std::io::{self, Write};

use printable::Printable;

/// Writes a line to stderr like `eprintln!`, but does not panic when the reader has closed the pipe
/// (`exoprof record … 2>&1 | head`): the profile must still be written.
///
/// It is one line whatever is in it: a line break in a name is escaped.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::terminal::line_to_stderr(format_args!($($argument)*))
    };
}
pub use say;

/// Writes a line to stderr; see [`say!`].
pub fn line_to_stderr(text: Arguments<'_>) {
    to_stderr(format_args!("{}\n", Printable(&text.to_string())));
}

/// Writes lines to stderr without terminal control characters, and ignores a closed pipe. Names in
/// them must be [`Printable`].
pub fn to_stderr(text: Arguments<'_>) {
    let text = text.to_string();
    let _ = io::stderr().lock().write_all(printable::lines(&text).as_bytes());
}

/// Writes lines to stdout without terminal control characters. Names in them must be
/// [`Printable`]. A reader that closes the pipe early, such as `head`, is not an error.
///
/// # Errors
/// Stdout cannot be written.
pub fn to_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(printable::lines(text).as_bytes()).and_then(|()| out.flush()) {
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

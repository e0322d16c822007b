//! Runs `exoprof view`.

use std::io::{self, BufWriter, Write as _};

use console::terminal::to_stderr;
use console::usage::Verbosity;
use report::ReportError;
use view::{Terminal, WriteReport};

use crate::fetching::Fetching;

pub use view::ViewArgs;

/// Runs the command.
pub fn run(args: &ViewArgs, verbosity: Verbosity) -> anyhow::Result<()> {
    Ok(view::run(args, verbosity, &mut Fetching::new(verbosity), &mut Streams)?)
}

/// Standard output for reports, standard error for the rest.
struct Streams;

impl Terminal for Streams {
    fn say(&mut self, text: &str) {
        to_stderr(format_args!("{text}\n"));
    }

    fn show(&mut self, write: WriteReport<'_>) -> Result<(), ReportError> {
        let mut out = BufWriter::new(io::stdout().lock());
        write(&mut out)?;
        // It fails only if the reader has left, which the next prompt notices.
        let _ = out.flush();
        Ok(())
    }
}

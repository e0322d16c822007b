//! Runs `exoprof view`.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};

use console::terminal::{Printable, say};
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
        say!("{text}");
    }

    fn show(&mut self, write: WriteReport<'_>) -> Result<(), ReportError> {
        let stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        let mut out = BufWriter::new(stdout);
        if is_terminal {
            write(&mut Printable(&mut out))?
        } else {
            write(&mut out)?
        }
        // It fails only if the reader has left, which the next prompt notices.
        let _ = out.flush();
        Ok(())
    }
}

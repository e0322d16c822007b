//! Writes reports to files in the formats of other viewers.

use std::io::{self, Write};
use std::path::Path;

use console::output::{FileName, Output};
use console::terminal::say;
use console::usage::{UsageError, Verbosity};
use report::{Report, ReportError};

/// Checks the extension of a flame graph's file before anything is read.
pub fn check(path: &Path) -> anyhow::Result<()> {
    is_page(path).map(|_| ())
}

/// Writes a flame graph.
pub fn flame_graph(report: &Report<'_>, path: &Path, verbosity: Verbosity) -> anyhow::Result<()> {
    let document = report.flame_document();
    let text = if is_page(path)? { document.html() } else { document.svg() };
    write(path, verbosity, |out| Ok(out.write_all(text.as_bytes())?))
}

fn is_page(path: &Path) -> anyhow::Result<bool> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("html" | "htm") => Ok(true),
        Some("svg") => Ok(false),
        _ => {
            let text = format!(
                "cannot write a flame graph to {}: the extension must be .html or .svg",
                path.display()
            );
            Err(UsageError(text).into())
        }
    }
}

/// Writes a file of any kind; `-` is stdout.
pub fn write(
    path: &Path,
    verbosity: Verbosity,
    content: impl FnOnce(&mut dyn Write) -> Result<(), ReportError>,
) -> anyhow::Result<()> {
    let place = FileName::Named { path: path.to_owned(), replace: true };
    // An error of the report itself is not a failure to write the file.
    let mut complaint = None;
    let written = Output::prepare(place)?.write(|out| match content(out) {
        Ok(()) => Ok(()),
        Err(ReportError::Write(e)) => Err(e),
        Err(e) => {
            complaint = Some(e);
            Err(io::ErrorKind::Other.into())
        }
    });
    if let Some(complaint) = complaint {
        return Err(complaint.into());
    }
    if let (Some(path), true) = (written?, verbosity > Verbosity::Quiet) {
        say!("wrote {}", path.display());
    }
    Ok(())
}

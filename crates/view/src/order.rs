//! Runs a parsed command: prints a report or writes it to a file.

use std::io::{self, Write};
use std::path::Path;

use console::output::{FileName, Output, OutputError};
use pprof::Profile;
use report::{Report, ReportError};

use crate::commands::{CommandOutput, Order};
use crate::terminal::Terminal;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The options are invalid.
    #[error("{0}")]
    Settings(String),
    /// The report failed.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The file's name is missing.
    #[error("proto requires a file: proto >file")]
    NoFile,
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The profile cannot be written to the file.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Runs a command. Warnings are printed first.
pub fn carry_out(
    profile: &Profile,
    order: &Order,
    terminal: &mut dyn Terminal,
) -> Result<(), OrderError> {
    let Order { command, on, settings } = order;
    let form = match command.makes {
        CommandOutput::Report(form) => form(),
        CommandOutput::ReportOn(form) => form(on.clone()),
        CommandOutput::Profile => return save(profile, &settings.output, terminal),
    };
    let options = settings.options(form).map_err(OrderError::Settings)?;
    let report = Report::new(profile, options)?;
    report.warnings().iter().for_each(|w| terminal.say(&format!("warning: {w}")));
    if settings.output.is_empty() {
        return Ok(terminal.show(&|out| report.write(out))?);
    }
    into_file(&settings.output, terminal, |out| Ok(report.write(out)?))
}

fn save(profile: &Profile, path: &str, terminal: &mut dyn Terminal) -> Result<(), OrderError> {
    if path.is_empty() {
        return Err(OrderError::NoFile);
    }
    let failed = |source| OrderError::File { path: path.to_owned(), source };
    into_file(path, terminal, |out| pprof::write_gz(profile, out).map_err(failed))
}

fn into_file(
    path: &str,
    terminal: &mut dyn Terminal,
    write: impl FnOnce(&mut dyn Write) -> Result<(), OrderError>,
) -> Result<(), OrderError> {
    terminal.say(&format!("Generating report in {path}"));
    // Stdout is no file's name here.
    let named = if path == "-" { Path::new("./-") } else { Path::new(path) };
    let place = FileName::Named { path: named.into(), replace: true };
    let mut complaint = None;
    let written = Output::prepare(place)?.write(|out| {
        write(out).map_err(|e| {
            complaint = Some(e);
            io::ErrorKind::Other.into()
        })
    });
    match complaint {
        Some(complaint) => Err(complaint),
        None => Ok(written.map(drop)?),
    }
}

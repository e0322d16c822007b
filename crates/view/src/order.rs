//! Carrying out an order: a report, to the terminal or into a file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use console::terminal::{Printable, say};
use console::user::User;
use pprof::Profile;
use report::Report;

use super::commands::{Makes, Order};

/// Carries out an order. Warnings go to stderr.
pub fn carry_out(profile: &Profile, order: &Order) -> anyhow::Result<()> {
    let Order { command, on, settings } = order;
    let form = match command.makes {
        Makes::Report(form) => form(),
        Makes::ReportOn(form) => form(on.clone()),
        Makes::Profile => return save(profile, &settings.output),
    };
    let options = settings.options(form).map_err(|e| anyhow!(e))?;
    let report = Report::new(profile, options)?;
    report.warnings().iter().for_each(|w| say!("warning: {w}"));
    if settings.output.is_empty() {
        let stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        let mut out = BufWriter::new(stdout);
        match is_terminal {
            true => report.write(&mut Printable(&mut out))?,
            false => report.write(&mut out)?,
        }
        // A failure here is the reader's leave, of which the next prompt hears.
        let _ = out.flush();
        return Ok(());
    }
    into_file(&settings.output, |out| Ok(report.write(out)?))
}

fn save(profile: &Profile, path: &str) -> anyhow::Result<()> {
    if path.is_empty() {
        bail!("where to? proto >file");
    }
    into_file(path, |out| pprof::write_gz(profile, out).map_err(Into::into))
}

fn into_file(
    path: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    say!("Generating report in {path}");
    let is_new = Path::new(path).symlink_metadata().is_err();
    let file = File::create(path).with_context(|| path.to_owned())?;
    if is_new {
        User::invoking().give(&file).with_context(|| path.to_owned())?;
    }
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.flush().with_context(|| path.to_owned())
}

//! Where the shell's answers go.

use std::io::Write;

use report::ReportError;

/// Writes a report.
pub type WriteReport<'a> = &'a dyn Fn(&mut dyn Write) -> Result<(), ReportError>;

/// Where the shell's answers go.
pub trait Terminal {
    /// Shows what is no report, such as help, warnings and errors, which may be several lines.
    fn say(&mut self, text: &str);

    /// Shows a report.
    ///
    /// # Errors
    /// What the report says of itself; where nobody reads it any more, the next prompt hears of it.
    fn show(&mut self, write: WriteReport<'_>) -> Result<(), ReportError>;
}

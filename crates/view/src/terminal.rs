//! Defines where the shell prints its answers.

use std::io::Write;

use report::ReportError;

/// Writes a report.
pub type WriteReport<'a> = &'a dyn Fn(&mut dyn Write) -> Result<(), ReportError>;

/// Prints the shell's answers.
pub trait Terminal {
    /// Prints text other than reports: help, warnings and errors, possibly several lines.
    fn say(&mut self, text: &str);

    /// Prints a report.
    ///
    /// # Errors
    /// The report's own error. A closed pipe is only noticed by the next prompt.
    fn show(&mut self, write: WriteReport<'_>) -> Result<(), ReportError>;
}

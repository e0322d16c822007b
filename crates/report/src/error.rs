//! Why a report could not be made.

use std::io;

/// Why a report could not be made. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The profile measures nothing.
    #[error("the profile has no sample types")]
    NoSampleTypes,
    /// There is no sample type of this name.
    #[error("sample type {wanted:?} must be one of: {known}")]
    SampleType {
        /// What was asked for.
        wanted: String,
        /// The names that there are.
        known: String,
    },
    /// There are not so many sample types.
    #[error("sample type {wanted} is outside the range 0 to {last}")]
    SampleTypeRange {
        /// What was asked for.
        wanted: i64,
        /// The last type, counted from 0.
        last: usize,
    },
    /// An option is no regular expression.
    #[error("{option} {pattern:?} is no regular expression: {reason}")]
    Pattern {
        /// The option, such as `focus`.
        option: &'static str,
        /// Its value.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Peek or list found nothing.
    #[error("no matches found for regexp: {pattern}")]
    NoMatch {
        /// The expression.
        pattern: String,
    },
    /// A viewer has no picture of what differences have.
    #[error("{viewer} cannot show values below 0")]
    Negative {
        /// The viewer.
        viewer: &'static str,
    },
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
}

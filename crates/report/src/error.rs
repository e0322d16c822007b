//! Lists the errors of reports.

use std::io;

/// Why a report could not be made. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The profile has no values.
    #[error("the profile has no sample types")]
    NoSampleTypes,
    /// No sample type has this name.
    #[error("unknown sample type {wanted:?}; the profile has: {known}")]
    SampleType {
        /// The requested type.
        wanted: String,
        /// The profile's sample types.
        known: String,
    },
    /// The index of the sample type is out of range.
    #[error("sample type {wanted} is out of range: the profile has types 0 to {last}")]
    SampleTypeRange {
        /// The requested type.
        wanted: i64,
        /// The last type, counted from 0.
        last: usize,
    },
    /// An option is not a valid regular expression.
    #[error("invalid regular expression in {option}: {pattern:?}: {reason}")]
    Pattern {
        /// The option, such as `focus`.
        option: &'static str,
        /// Its value.
        pattern: String,
        /// The compiler's message.
        reason: String,
    },
    /// No entry matches the expression of peek or list.
    #[error("no matches found for regexp: {pattern}")]
    NoMatch {
        /// The expression.
        pattern: String,
    },
    /// The viewer cannot show negative values, which differences have.
    #[error("{viewer} cannot show negative values; export the profile without a base")]
    Negative {
        /// The viewer.
        viewer: &'static str,
    },
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
}

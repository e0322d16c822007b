//! Defines the callbacks for the progress of reading profiles.

use std::path::Path;

use super::saved::SaveError;

/// Receives the progress of reading profiles.
pub trait FetchProgress {
    /// A request was sent to a server, which will record for `seconds`, if known.
    fn fetching(&mut self, url: &str, seconds: Option<u32>);

    /// More bytes were received.
    fn received(&mut self, bytes: usize);

    /// The transfer has ended or failed.
    fn fetched(&mut self);

    /// The fetched profile was saved.
    fn saved(&mut self, path: &Path);

    /// The fetched profile could not be saved.
    fn not_saved(&mut self, why: &SaveError);
}

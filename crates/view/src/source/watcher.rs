//! Who hears what happens while profiles are read.

use std::path::Path;

use super::saved::SaveError;

/// Hears what happens while profiles are read.
pub trait Watcher {
    /// A server is asked for a profile, which takes so many seconds where that is known.
    fn fetching(&mut self, url: &str, seconds: Option<u32>);

    /// So many more bytes have come.
    fn received(&mut self, bytes: usize);

    /// Nothing more comes, or there was an error.
    fn fetched(&mut self);

    /// What was fetched is kept in a file.
    fn saved(&mut self, path: &Path);

    /// What was fetched could not be kept.
    fn not_saved(&mut self, why: &SaveError);
}

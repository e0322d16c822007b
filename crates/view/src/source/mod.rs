//! Reads profiles from files and URLs.

mod address;
mod error;
mod fetch;
mod saved;
mod watcher;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use pprof::{DecodeError, Profile};
use report::combine;

use address::Source;
pub use error::{FetchError, ReadError, SourceError};
pub use saved::SaveError;
pub use watcher::FetchProgress;

/// Maximum size of a file, in bytes. The decoder has the same limit.
const MAX_BYTES: u64 = 1 << 30;
/// The magic number of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The profiles to look at, as the command line names them.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Read these profiles; several are merged. A URL without a path means /debug/pprof/profile
    #[arg(value_name = "FILE|URL", required = true)]
    pub sources: Vec<String>,
    /// Subtract this profile and show the difference; repeatable
    #[arg(long, value_name = "FILE|URL")]
    pub diff_base: Vec<String>,
    /// How long the server should record, in seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// How long to wait for the server, in seconds [default: 1.5 × the recording time, or 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: Option<u32>,
}

impl SourceArgs {
    /// Reads all profiles and merges them. Fetched profiles are saved.
    ///
    /// # Errors
    /// A profile cannot be read, or they have no sample type in common.
    pub fn read(&self, watcher: &mut dyn FetchProgress) -> Result<Profile, SourceError> {
        let mut is_remote = false;
        let mut read = |sources: &[String]| {
            let each = sources.iter().map(|s| self.read_one(s, &mut is_remote, watcher));
            each.collect::<Result<Vec<Profile>, SourceError>>()
        };
        let profile = combine(read(&self.sources)?, read(&self.diff_base)?)?;
        if is_remote {
            match saved::save(&profile) {
                Ok(path) => watcher.saved(&path),
                Err(e) => watcher.not_saved(&e),
            }
        }
        Ok(profile)
    }

    fn read_one(
        &self,
        source: &str,
        is_remote: &mut bool,
        watcher: &mut dyn FetchProgress,
    ) -> Result<Profile, SourceError> {
        let bytes = match Source::of(source) {
            Source::File(path) => {
                read_file(path).map_err(|source| SourceError::File { path: path.into(), source })?
            }
            Source::Url(url) => {
                *is_remote = true;
                let seconds = |n: u32| Duration::from_secs(u64::from(n));
                let url = url.recording_for(self.seconds);
                let timeout = self.timeout.map_or_else(|| url.timeout(), seconds);
                fetch::fetch(&url, timeout, watcher)
                    .map_err(|source| SourceError::Url { url: url.to_string(), source })?
            }
        };
        let name = source.to_owned();
        pprof::decode(&bytes).map_err(|e| match e {
            // The limits depend on the size of the input.
            DecodeError::TooLarge { .. } | DecodeError::TooMuchMemory { .. }
                if bytes.starts_with(&GZIP) =>
            {
                SourceError::TooDense { name, why: e, kib: bytes.len().div_ceil(1024) }
            }
            source => SourceError::NoProfile { name, source },
        })
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    let size = file.metadata().map_or(0, |m| m.len());
    if size <= MAX_BYTES {
        // Reserve all of it at once: growing would take twice as much.
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        bytes.try_reserve_exact(size.saturating_add(1))?;
    }
    read_within(file, MAX_BYTES, &mut bytes)?;
    Ok(bytes)
}

/// Reads to the end, at most `limit` bytes.
fn read_within(from: impl Read, limit: u64, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
    from.take(limit + 1).read_to_end(bytes)?;
    if bytes.len() as u64 > limit { Err(ReadError::TooLong(limit)) } else { Ok(()) }
}

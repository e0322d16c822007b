//! Where profiles come from: files and URLs.

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
pub use watcher::Watcher;

/// No larger file is read. The decoder takes no larger profiles either.
const MAX_BYTES: u64 = 1 << 30;
/// How gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The profiles to look at, as the command line names them.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Profiles; several are merged. A URL without a path means /debug/pprof/profile
    #[arg(value_name = "FILE|URL", required = true)]
    pub sources: Vec<String>,
    /// Show the difference to this profile; repeatable
    #[arg(long, value_name = "FILE|URL")]
    pub diff_base: Vec<String>,
    /// How long a URL's server shall record
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// How long to wait for a URL's server, in seconds [default: half as long again as it records,
    /// or 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: Option<u32>,
}

impl SourceArgs {
    /// Reads all profiles and makes one of them. What was fetched is saved.
    ///
    /// # Errors
    /// When one cannot be read, or they measure different things.
    pub fn read(&self, watcher: &mut dyn Watcher) -> Result<Profile, SourceError> {
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
        watcher: &mut dyn Watcher,
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
            // The bounds follow from the size of what was read.
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
        // Room for all of it at once: growing would need twice as much.
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        bytes.try_reserve_exact(size.saturating_add(1))?;
    }
    read_within(file, MAX_BYTES, &mut bytes)?;
    Ok(bytes)
}

/// Reads to the end, which must come within `limit` bytes.
fn read_within(from: impl Read, limit: u64, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
    from.take(limit + 1).read_to_end(bytes)?;
    if bytes.len() as u64 > limit { Err(ReadError::TooLong(limit)) } else { Ok(()) }
}

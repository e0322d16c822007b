//! Validates encoded profiles against the requirements of all known readers.
//!
//! [`decode`](crate::decode()) accepts every well-formed profile. These rules are stricter, because
//! Parca, Pyroscope and `go tool pprof` each reject or misread profiles that the format allows. The
//! validator reads the encoded bytes without the decoder, so that the decoder cannot hide a mistake
//! of the encoder.
//!
//! Bytes alone do not show whether `line[0]` is the innermost call: pass known pairs of inlined
//! functions in [`Expect::inlined`].

mod expect;
mod header;
mod kinds;
mod samples;
mod tables;
mod violation;
mod wire;

use prost::Message;

pub use self::expect::Expect;
pub use self::violation::Violation;
use self::violation::Violations;
use self::wire::WireTables;
use crate::{Limits, inflate, proto};

/// What a valid profile contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The kind of profile, by its types: `cpu`, `heap`, `allocs`, `block or mutex`, …
    pub kind: String,
    /// Samples.
    pub samples: usize,
    /// Mappings.
    pub mappings: usize,
    /// Locations.
    pub locations: usize,
    /// Locations without lines, which readers have to symbolize.
    pub unsymbolized: usize,
    /// Functions.
    pub functions: usize,
    /// Strings.
    pub strings: usize,
}

/// Checks an encoded profile, compressed with gzip or not.
///
/// # Errors
/// All violations: the first 100, and the number of the others.
pub fn check(bytes: &[u8]) -> Result<Report, Vec<Violation>> {
    check_expecting(bytes, &Expect::default())
}

/// Checks an encoded profile, also against what the caller knows about the program.
///
/// # Errors
/// All violations: the first 100, and the number of the others.
pub fn check_expecting(bytes: &[u8], expect: &Expect<'_>) -> Result<Report, Vec<Violation>> {
    let unreadable = |reason: String| vec![Violation::Unreadable { reason }];
    let bytes = inflate(bytes, &Limits::default()).map_err(|e| unreadable(e.to_string()))?;
    let wire = proto::Profile::decode(&*bytes).map_err(|e| unreadable(e.to_string()))?;
    let mut found = Violations::default();
    let strings = tables::strings(&wire, &mut found);
    let profile = WireTables::new(&wire, strings);
    tables::ids(&profile, &mut found);
    tables::mappings(&profile, expect, &mut found);
    tables::locations(&profile, expect, &mut found);
    tables::functions(&profile, &mut found);
    tables::usage(&profile, &mut found);
    samples::check(&profile, &mut found);
    header::check(&profile, &mut found);
    let kind = kinds::find(&profile, expect, &mut found);
    found.finish()?;
    Ok(Report {
        kind: kind.unwrap_or_default(),
        samples: wire.sample.len(),
        mappings: wire.mapping.len(),
        locations: wire.location.len(),
        unsymbolized: wire.location.iter().filter(|l| l.line.is_empty()).count(),
        functions: wire.function.len(),
        strings: wire.string_table.len(),
    })
}

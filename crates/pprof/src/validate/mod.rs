//! Validates encoded profiles against the requirements of all known readers.
//!
//! [`decode`](crate::decode()) accepts every well-formed profile. These rules are stricter, because
//! Parca, Pyroscope and `go tool pprof` each reject or misread profiles that the format allows. The
//! validator reads the encoded bytes without the decoder, so that the decoder cannot hide a mistake
//! of the encoder.
//!
//! Bytes alone do not show whether `line[0]` is the innermost call: pass known pairs of inlined
//! functions in [`Expect::inlined`].

mod header;
mod kinds;
mod samples;
mod tables;
mod violation;

use std::collections::HashMap;

use prost::Message;

use crate::kinds::KindFacts;
use crate::{Limits, inflate, proto};
pub use violation::Violation;

/// Further violations are counted, not listed.
const MAX_LISTED: usize = 100;

/// What the caller knows about the recorded program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect<'a> {
    /// The path, or its last component, of the main binary, which must be the first mapping.
    pub main_binary: Option<&'a str>,
    /// Pairs of functions (by name), the first of which is inlined into the second: wherever both
    /// are lines of one location, the first comes first.
    pub inlined: &'a [(&'a str, &'a str)],
    /// Kinds that are accepted besides those of Go's runtime/pprof.
    pub kinds: &'a [KindFacts],
}

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
    let profile = Wire::new(&wire, strings);
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

/// The wire messages with their references resolved by id.
struct Wire<'p> {
    profile: &'p proto::Profile,
    /// `None` for invalid UTF-8.
    strings: Vec<Option<&'p str>>,
    mappings: HashMap<u64, &'p proto::Mapping>,
    locations: HashMap<u64, &'p proto::Location>,
    functions: HashMap<u64, &'p proto::Function>,
}

impl<'p> Wire<'p> {
    fn new(profile: &'p proto::Profile, strings: Vec<Option<&'p str>>) -> Self {
        Self {
            profile,
            strings,
            mappings: profile.mapping.iter().map(|m| (m.id, m)).collect(),
            locations: profile.location.iter().map(|l| (l.id, l)).collect(),
            functions: profile.function.iter().map(|f| (f.id, f)).collect(),
        }
    }

    /// The string at an index; an index out of range is a violation and reads as empty.
    fn text(&self, index: i64, field: &'static str, found: &mut Violations) -> &'p str {
        match usize::try_from(index).ok().and_then(|i| self.strings.get(i)) {
            Some(text) => text.unwrap_or_default(),
            None => {
                found.add(Violation::StringIndex { field, index, strings: self.strings.len() });
                ""
            }
        }
    }

    /// The string at an index. Another rule reports an index that is out of range.
    fn peek(&self, index: i64) -> &'p str {
        let found = usize::try_from(index).ok().and_then(|i| self.strings.get(i));
        found.copied().flatten().unwrap_or_default()
    }

    /// The name of a line's function, empty when there is none.
    fn function_name(&self, line: &proto::Line) -> &'p str {
        self.functions.get(&line.function_id).map_or("", |f| self.peek(f.name))
    }
}

/// The violations so far.
#[derive(Default)]
struct Violations {
    listed: Vec<Violation>,
    more: usize,
}

impl Violations {
    fn add(&mut self, violation: Violation) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(violation);
        } else {
            self.more += 1;
        }
    }

    fn add_if(&mut self, is_violated: bool, violation: impl FnOnce() -> Violation) {
        if is_violated {
            self.add(violation());
        }
    }

    fn finish(mut self) -> Result<(), Vec<Violation>> {
        if self.listed.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.listed.push(Violation::More { count: self.more });
        }
        Err(self.listed)
    }
}

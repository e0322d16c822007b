//! Resolves the references between the messages of an encoded profile, without the decoder.

use std::collections::HashMap;

use super::violation::{Violation, Violations};
use crate::proto;

/// The wire messages with their references resolved by id.
pub(super) struct WireTables<'p> {
    pub(super) profile: &'p proto::Profile,
    /// `None` for invalid UTF-8.
    pub(super) strings: Vec<Option<&'p str>>,
    pub(super) mappings: HashMap<u64, &'p proto::Mapping>,
    pub(super) locations: HashMap<u64, &'p proto::Location>,
    pub(super) functions: HashMap<u64, &'p proto::Function>,
}

impl<'p> WireTables<'p> {
    pub(super) fn new(profile: &'p proto::Profile, strings: Vec<Option<&'p str>>) -> Self {
        Self {
            profile,
            strings,
            mappings: profile.mapping.iter().map(|m| (m.id, m)).collect(),
            locations: profile.location.iter().map(|l| (l.id, l)).collect(),
            functions: profile.function.iter().map(|f| (f.id, f)).collect(),
        }
    }

    /// The string at an index; an index out of range is a violation and reads as empty.
    pub(super) fn text(&self, index: i64, field: &'static str, found: &mut Violations) -> &'p str {
        match usize::try_from(index).ok().and_then(|i| self.strings.get(i)) {
            Some(text) => text.unwrap_or_default(),
            None => {
                found.add(Violation::StringIndex { field, index, strings: self.strings.len() });
                ""
            }
        }
    }

    /// The string at an index. Another rule reports an index that is out of range.
    pub(super) fn peek(&self, index: i64) -> &'p str {
        let found = usize::try_from(index).ok().and_then(|i| self.strings.get(i));
        found.copied().flatten().unwrap_or_default()
    }

    /// The name of a line's function, empty when there is none.
    pub(super) fn function_name(&self, line: &proto::Line) -> &'p str {
        self.functions.get(&line.function_id).map_or("", |f| self.peek(f.name))
    }
}

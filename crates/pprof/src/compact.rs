//! Drops unused entries and derives the `has_*` flags of mappings.

use crate::{FunctionIndex, LocationIndex, MappingIndex, Profile};

impl Profile {
    /// Drops locations, functions and mappings that no sample uses, except the first mapping, which
    /// is the main binary. The order does not change.
    pub fn compact(&mut self) {
        let mut used = vec![false; self.locations.len()];
        for frame in self.samples.frames() {
            if let Some(used) = used.get_mut(frame.index()) {
                *used = true;
            }
        }
        let moved = remove_unused(&mut self.locations, &used);
        for frame in self.samples.frames_mut() {
            if let Some(&to) = moved.get(frame.index()) {
                *frame = LocationIndex::new(to);
            }
        }

        let mut used_functions = vec![false; self.functions.len()];
        let mut used_mappings = vec![false; self.mappings.len()];
        if let Some(main) = used_mappings.first_mut() {
            *main = true;
        }
        for location in &self.locations {
            if let Some(used) = location.mapping.and_then(|m| used_mappings.get_mut(m.index())) {
                *used = true;
            }
            for function in location.lines.iter().filter_map(|l| l.function) {
                if let Some(used) = used_functions.get_mut(function.index()) {
                    *used = true;
                }
            }
        }
        let moved_functions = remove_unused(&mut self.functions, &used_functions);
        let moved_mappings = remove_unused(&mut self.mappings, &used_mappings);
        for location in &mut self.locations {
            if let Some(m) = &mut location.mapping
                && let Some(&to) = moved_mappings.get(m.index())
            {
                *m = MappingIndex::new(to);
            }
            for f in location.lines.iter_mut().filter_map(|l| l.function.as_mut()) {
                if let Some(&to) = moved_functions.get(f.index()) {
                    *f = FunctionIndex::new(to);
                }
            }
        }
    }

    /// Orders locations, and mappings after the first, by their first use in the samples.
    ///
    /// Every entry must be [in use](Self::compact).
    pub(crate) fn number_by_first_use(&mut self) {
        let uses = self.samples.frames().iter().map(|l| l.index());
        let moved = reorder(&mut self.locations, uses);
        for frame in self.samples.frames_mut() {
            if let Some(&to) = moved.get(frame.index()) {
                *frame = LocationIndex::new(to);
            }
        }
        let uses = self.locations.iter().filter_map(|l| l.mapping).map(|m| m.index());
        let moved = reorder(&mut self.mappings, std::iter::once(0).chain(uses));
        for mapping in self.locations.iter_mut().filter_map(|l| l.mapping.as_mut()) {
            if let Some(&to) = moved.get(mapping.index()) {
                *mapping = MappingIndex::new(to);
            }
        }
    }

    /// Sets `has_functions`, `has_filenames`, `has_line_numbers` and `has_inline_frames` of each
    /// mapping from its locations.
    ///
    /// Each of these flags stops readers from symbolizing the mapping, so one unresolved location
    /// clears them, and a mapping without locations has none. `has_inline_frames` is set if all line
    /// numbers are known and some location has more than one line.
    pub fn set_symbol_flags(&mut self) {
        let mut known = vec![Resolved::default(); self.mappings.len()];
        for location in &self.locations {
            let Some(of) = location.mapping.and_then(|m| known.get_mut(m.index())) else {
                continue;
            };
            let mut here = Resolved { locations: 1, ..Resolved::default() };
            for line in &location.lines {
                let function = line.function.and_then(|f| self.functions.get(f.index()));
                here.no_name |= function.is_none_or(|f| f.name.is_empty());
                here.no_file |= function.is_none_or(|f| f.filename.is_empty());
                here.no_line |= line.line == 0;
            }
            here.no_name |= location.lines.is_empty();
            here.inlined = location.lines.len() > 1;
            of.add(here);
        }
        for (mapping, known) in self.mappings.iter_mut().zip(known) {
            mapping.has_functions = known.locations > 0 && !known.no_name;
            mapping.has_filenames = mapping.has_functions && !known.no_file;
            mapping.has_line_numbers = mapping.has_filenames && !known.no_line;
            mapping.has_inline_frames = mapping.has_line_numbers && known.inlined;
        }
    }
}

/// Properties of the locations of one mapping.
#[derive(Clone, Copy, Default)]
struct Resolved {
    locations: usize,
    no_name: bool,
    no_file: bool,
    no_line: bool,
    inlined: bool,
}

impl Resolved {
    const fn add(&mut self, other: Self) {
        self.locations += other.locations;
        self.no_name |= other.no_name;
        self.no_file |= other.no_file;
        self.no_line |= other.no_line;
        self.inlined |= other.inlined;
    }
}

/// Sorts entries by first use, unused ones last. Returns the new index of each entry.
fn reorder<T>(table: &mut Vec<T>, uses: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut moved = vec![u32::MAX; table.len()];
    let mut next = 0;
    for at in uses.chain(0..table.len()) {
        if let Some(to) = moved.get_mut(at).filter(|to| **to == u32::MAX) {
            *to = next;
            next += 1;
        }
    }
    let mut entries: Vec<(u32, T)> = moved.iter().copied().zip(table.drain(..)).collect();
    entries.sort_unstable_by_key(|(to, _)| *to);
    table.extend(entries.into_iter().map(|(_, entry)| entry));
    moved
}

/// Removes unused entries. Returns the new index of each entry.
fn remove_unused<T>(table: &mut Vec<T>, used: &[bool]) -> Vec<u32> {
    let mut next = 0;
    let moved = used
        .iter()
        .map(|used| {
            let to = next;
            next += u32::from(*used);
            to
        })
        .collect();
    let mut used = used.iter().copied();
    table.retain(|_| used.next().unwrap_or(true));
    moved
}

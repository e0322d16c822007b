//! What follows from a profile's own content: what is used, and what is symbolized.

use crate::{FunctionIndex, LocationIndex, MappingIndex, Profile};

impl Profile {
    /// Drops locations, functions and mappings that no sample uses. The first mapping, the main
    /// binary, stays. Order does not change.
    pub fn compact(&mut self) {
        let mut used = vec![false; self.locations.len()];
        for frame in self.samples.frames() {
            if let Some(used) = used.get_mut(frame.index()) {
                *used = true;
            }
        }
        let moved = sweep(&mut self.locations, &used);
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
        let moved_functions = sweep(&mut self.functions, &used_functions);
        let moved_mappings = sweep(&mut self.mappings, &used_mappings);
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
    /// Everything must be [in use](Self::compact).
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
    /// Any of these flags keeps readers from symbolizing the mapping, so one location that is not
    /// resolved clears them, and a mapping without locations has none. Inline frames are claimed
    /// where lines are known throughout and some location holds more than one.
    pub fn set_symbol_flags(&mut self) {
        let mut known = vec![Resolved::default(); self.mappings.len()];
        for location in &self.locations {
            let Some(of) = location.mapping.and_then(|m| known.get_mut(m.index())) else {
                continue;
            };
            let mut here = Resolved { locations: 1, ..Resolved::default() };
            for line in &location.lines {
                let function = line.function.and_then(|f| self.functions.get(f.index()));
                here.unnamed |= function.is_none_or(|f| f.name.is_empty());
                here.fileless |= function.is_none_or(|f| f.filename.is_empty());
                here.lineless |= line.line == 0;
            }
            here.unnamed |= location.lines.is_empty();
            here.inlined = location.lines.len() > 1;
            of.add(here);
        }
        for (mapping, known) in self.mappings.iter_mut().zip(known) {
            mapping.has_functions = known.locations > 0 && !known.unnamed;
            mapping.has_filenames = mapping.has_functions && !known.fileless;
            mapping.has_line_numbers = mapping.has_filenames && !known.lineless;
            mapping.has_inline_frames = mapping.has_line_numbers && known.inlined;
        }
    }
}

/// What the locations of one mapping lack and have.
#[derive(Clone, Copy, Default)]
struct Resolved {
    locations: usize,
    unnamed: bool,
    fileless: bool,
    lineless: bool,
    inlined: bool,
}

impl Resolved {
    const fn add(&mut self, other: Self) {
        self.locations += other.locations;
        self.unnamed |= other.unnamed;
        self.fileless |= other.fileless;
        self.lineless |= other.lineless;
        self.inlined |= other.inlined;
    }
}

/// Orders entries by their first use, unused ones last, and returns where each entry lies now.
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

/// Removes unused entries and returns where each entry lies now.
fn sweep<T>(table: &mut Vec<T>, used: &[bool]) -> Vec<u32> {
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

//! Combining profiles, with the semantics of google/pprof's `profile.Merge`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{
    BuildError, Function, FunctionIndex, FunctionSpec, Label, Line, Location, LocationIndex,
    Mapping, MappingIndex, Profile, ProfileBuilder, Samples, ValueType,
};

/// The label by which pprof's reports know the samples of a diff's base.
pub const BASE_LABEL: &str = "pprof::base";

/// Why profiles could not be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// Nothing to merge.
    #[error("no profiles to merge")]
    NoProfiles,
    /// The values mean different things.
    #[error("profile {profile} has the sample types {theirs}, the first has {ours}")]
    SampleTypes {
        /// The profile that differs, counted from 1.
        profile: usize,
        /// Its types.
        theirs: String,
        /// The first profile's types.
        ours: String,
    },
    /// The periods mean different things.
    #[error("profile {profile} has the period type {theirs}, the first has {ours}")]
    PeriodTypes {
        /// The profile that differs, counted from 1.
        profile: usize,
        /// Its type.
        theirs: ValueType,
        /// The first profile's type.
        ours: ValueType,
    },
    /// A profile is inconsistent, or the result is too large.
    #[error("profile {profile} cannot be merged: {source}")]
    Inconsistent {
        /// The profile, counted from 1.
        profile: usize,
        /// What is wrong.
        source: BuildError,
    },
}

/// Adds profiles up.
///
/// - All must have the same sample types, in order, and the same period type.
/// - Mappings are one when build id (or else file), offset and size (rounded up to 4 KiB) agree;
///   addresses move along with the first one's start. So recordings of several runs of a
///   position-independent program meet.
/// - Start is the earliest that is known, durations add up, the period is the largest; comments are
///   joined without repetition; default type, documentation link and frame filters are the first
///   profile's that has one.
/// - Locations and mappings are in the order in which samples use them, after the main binary.
/// - Samples with equal stacks and labels become one; those that sum up to zero are dropped, and
///   with them what nothing else uses.
///
/// Unlike google/pprof, a merged mapping claims `has_functions` and the like only when it does in
/// every profile that has locations in it, so that what one of them left for later is still
/// symbolized.
///
/// # Errors
/// [`MergeError`].
pub fn merge<'p>(profiles: impl IntoIterator<Item = &'p Profile>) -> Result<Profile, MergeError> {
    let profiles: Vec<&Profile> = profiles.into_iter().collect();
    let header = combine_headers(&profiles)?;
    let mut merger = Merger { builder: ProfileBuilder::around(header), mappings: HashMap::new() };
    for (nth, profile) in profiles.iter().enumerate() {
        merger
            .add(profile)
            .map_err(|source| MergeError::Inconsistent { profile: nth + 1, source })?;
    }
    let mut merged = merger.builder.into_profile();
    merged.samples.retain(|s| s.values.iter().any(|v| *v != 0));
    merged.compact();
    merged.number_by_first_use();
    Ok(merged)
}

impl Profile {
    /// Multiplies all values by `ratio`, rounded to the nearest integer, and drops samples that
    /// become zero.
    pub fn scale(&mut self, ratio: f64) {
        // Rounding to the ends of the range is what `as` does; NaN becomes 0.
        self.samples.map_values(|_, v| (v as f64 * ratio).round() as i64);
        self.samples.retain(|s| s.values.iter().any(|v| *v != 0));
    }

    /// Negates all values exactly.
    pub fn negate(&mut self) {
        self.samples.map_values(|_, v| v.saturating_neg());
    }

    /// Marks all samples as the base of a diff, which [`negate`](Self::negate) and [`merge`] then
    /// subtract: reports compute percentages without them.
    pub fn mark_as_base(&mut self) {
        self.samples.label_all(&Label::text(BASE_LABEL, "true"));
    }
}

fn combine_headers(profiles: &[&Profile]) -> Result<Profile, MergeError> {
    let Some(first) = profiles.first() else {
        return Err(MergeError::NoProfiles);
    };
    let mut header = Profile {
        sample_types: first.sample_types.clone(),
        samples: Samples::new(first.sample_types.len()),
        period_type: first.period_type.clone(),
        drop_frames: Arc::clone(&first.drop_frames),
        keep_frames: Arc::clone(&first.keep_frames),
        ..Profile::default()
    };
    for (nth, p) in profiles.iter().enumerate() {
        check_compatible(first, p, nth + 1)?;
        if p.time_nanos != 0 && (header.time_nanos == 0 || p.time_nanos < header.time_nanos) {
            header.time_nanos = p.time_nanos;
        }
        header.duration_nanos = header.duration_nanos.saturating_add(p.duration_nanos);
        header.period = header.period.max(p.period);
        for comment in &p.comments {
            if !header.comments.contains(comment) {
                header.comments.push(Arc::clone(comment));
            }
        }
        if header.default_sample_type.is_empty() {
            header.default_sample_type = Arc::clone(&p.default_sample_type);
        }
        if header.doc_url.is_empty() {
            header.doc_url = Arc::clone(&p.doc_url);
        }
    }
    Ok(header)
}

fn check_compatible(first: &Profile, p: &Profile, profile: usize) -> Result<(), MergeError> {
    if p.sample_types != first.sample_types {
        let list = |p: &Profile| {
            p.sample_types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        return Err(MergeError::SampleTypes { profile, theirs: list(p), ours: list(first) });
    }
    if p.period_type != first.period_type {
        return Err(MergeError::PeriodTypes {
            profile,
            theirs: p.period_type.clone(),
            ours: first.period_type.clone(),
        });
    }
    Ok(())
}

/// What makes mappings of different processes the same.
#[derive(PartialEq, Eq, Hash)]
struct MappingKey {
    size: u64,
    offset: u64,
    build_id_or_file: Arc<str>,
}

impl MappingKey {
    fn new(m: &Mapping) -> Self {
        const ROUNDING: u64 = 0x1000;
        let size = m.limit.wrapping_sub(m.start).wrapping_add(ROUNDING - 1);
        Self {
            size: size - size % ROUNDING,
            offset: m.offset,
            build_id_or_file: Arc::clone(if m.build_id.is_empty() { &m.file } else { &m.build_id }),
        }
    }
}

struct Merger {
    builder: ProfileBuilder,
    mappings: HashMap<MappingKey, MergedMapping>,
}

#[derive(Clone, Copy)]
struct MergedMapping {
    at: MappingIndex,
    start: u64,
    /// Whether its `has_*` flags speak of any location.
    has_locations: bool,
}

impl Merger {
    fn add(&mut self, p: &Profile) -> Result<(), BuildError> {
        let mut used = vec![false; p.mappings.len()];
        for at in p.locations.iter().filter_map(|l| l.mapping) {
            if let Some(used) = used.get_mut(at.index()) {
                *used = true;
            }
        }
        let mut mappings = Vec::with_capacity(p.mappings.len());
        for (mapping, used) in p.mappings.iter().zip(used) {
            mappings.push(self.mapping(mapping, used)?);
        }
        let mut functions = Vec::with_capacity(p.functions.len());
        for f in &p.functions {
            functions.push(self.function(f)?);
        }
        let mut locations = Vec::with_capacity(p.locations.len());
        for location in &p.locations {
            locations.push(self.location(location, &mappings, &functions)?);
        }
        let mut stack: Vec<LocationIndex> = Vec::new();
        for sample in &p.samples {
            stack.clear();
            for at in sample.locations {
                stack.push(*look_up(&locations, at.get(), "location")?);
            }
            self.builder.add_sample(&stack, sample.values, sample.labels)?;
        }
        Ok(())
    }

    /// The merged mapping, and what to add to an address in `m`.
    fn mapping(
        &mut self,
        m: &Mapping,
        has_locations: bool,
    ) -> Result<(MappingIndex, u64), BuildError> {
        let key = MappingKey::new(m);
        let Some(known) = self.mappings.get_mut(&key) else {
            let at = self.builder.push_mapping(m.clone())?;
            self.mappings.insert(key, MergedMapping { at, start: m.start, has_locations });
            return Ok((at, 0));
        };
        if let Some(merged) = self.builder.mapping_mut(known.at).filter(|_| has_locations) {
            // Until now no location stood behind the flags, so they said nothing.
            let first = !known.has_locations;
            merged.has_functions = m.has_functions && (first || merged.has_functions);
            merged.has_filenames = m.has_filenames && (first || merged.has_filenames);
            merged.has_line_numbers = m.has_line_numbers && (first || merged.has_line_numbers);
            merged.has_inline_frames = m.has_inline_frames && (first || merged.has_inline_frames);
            known.has_locations = true;
        }
        Ok((known.at, known.start.wrapping_sub(m.start)))
    }

    fn function(&mut self, f: &Function) -> Result<FunctionIndex, BuildError> {
        self.builder.function(FunctionSpec {
            name: &f.name,
            system_name: &f.system_name,
            filename: &f.filename,
            start_line: f.start_line,
        })
    }

    fn location(
        &mut self,
        location: &Location,
        mappings: &[(MappingIndex, u64)],
        functions: &[FunctionIndex],
    ) -> Result<LocationIndex, BuildError> {
        let (mapping, moved) = match location.mapping {
            Some(at) => {
                let (at, moved) = *look_up(mappings, at.get(), "mapping")?;
                (Some(at), moved)
            }
            None => (None, 0),
        };
        let mut lines = Vec::with_capacity(location.lines.len());
        for line in &location.lines {
            let function = match line.function {
                Some(at) => Some(*look_up(functions, at.get(), "function")?),
                None => None,
            };
            lines.push(Line { function, ..*line });
        }
        let address = location.address.wrapping_add(moved);
        self.builder.any_location(mapping, address, &lines, location.is_folded)
    }
}

fn look_up<'t, T>(table: &'t [T], index: u32, name: &'static str) -> Result<&'t T, BuildError> {
    table.get(index as usize).ok_or(BuildError::Unknown { table: name, index })
}

//! Combining profiles, with the semantics of google/pprof's `profile.Merge`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::{
    BuildError, FunctionIndex, FunctionSpec, Label, LabelValue, Line, LocationIndex, Mapping,
    MappingIndex, Profile, ProfileBuilder, Samples, ValueType,
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
/// - Durations add up, the period is the largest; comments are joined without repetition; default
///   type, documentation link and frame filters are the first profile's that has one. Of the times
///   of their starts one is taken as google/pprof does: the earliest, or none where a profile
///   without it follows.
/// - Locations and mappings are in the order in which samples use them, after the main binary.
/// - Samples with equal stacks and labels become one; those that are or sum up to zero are dropped,
///   and with them what nothing else uses.
///
/// What a merged mapping says of itself (`has_functions` and the like) is the word of the first
/// profile with a sample in it. Call [`Profile::set_symbol_flags`] where others symbolize the result.
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
        if header.time_nanos == 0 || p.time_nanos < header.time_nanos {
            header.time_nanos = p.time_nanos;
        }
        header.duration_nanos = header.duration_nanos.saturating_add(p.duration_nanos);
        if header.period == 0 || header.period < p.period {
            header.period = p.period;
        }
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
    mappings: HashMap<MappingKey, (MappingIndex, u64)>,
}

/// Where a profile's tables went: only what samples use goes anywhere.
struct Moved<'p> {
    from: &'p Profile,
    mappings: Vec<Option<(MappingIndex, u64)>>,
    functions: Vec<Option<FunctionIndex>>,
    locations: Vec<Option<LocationIndex>>,
}

impl Merger {
    fn add(&mut self, p: &Profile) -> Result<(), BuildError> {
        let mut moved = Moved {
            from: p,
            mappings: vec![None; p.mappings.len()],
            functions: vec![None; p.functions.len()],
            locations: vec![None; p.locations.len()],
        };
        if self.mappings.is_empty() && !p.mappings.is_empty() {
            // The main binary comes first, whether a sample uses it or not.
            self.mapping(&mut moved, 0)?;
        }
        let mut stack: Vec<LocationIndex> = Vec::new();
        for sample in p.samples.iter().filter(|s| s.values.iter().any(|v| *v != 0)) {
            stack.clear();
            for at in sample.locations {
                stack.push(self.location(&mut moved, at.get())?);
            }
            self.builder.add_sample(&stack, sample.values, &by_key(sample.labels))?;
        }
        Ok(())
    }

    /// The merged mapping, and what to add to an address in the one at `index`.
    fn mapping(
        &mut self,
        moved: &mut Moved<'_>,
        index: u32,
    ) -> Result<(MappingIndex, u64), BuildError> {
        if let Some(known) = look_up(&moved.mappings, index, "mapping")? {
            return Ok(*known);
        }
        let m = look_up(&moved.from.mappings, index, "mapping")?;
        let (at, start) = match self.mappings.entry(MappingKey::new(m)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert((self.builder.push_mapping(m.clone())?, m.start)),
        };
        let merged = (at, start.wrapping_sub(m.start));
        moved.mappings[index as usize] = Some(merged);
        Ok(merged)
    }

    fn function(&mut self, moved: &mut Moved<'_>, index: u32) -> Result<FunctionIndex, BuildError> {
        if let Some(known) = look_up(&moved.functions, index, "function")? {
            return Ok(*known);
        }
        let f = look_up(&moved.from.functions, index, "function")?;
        let merged = self.builder.function(FunctionSpec {
            name: &f.name,
            system_name: &f.system_name,
            filename: &f.filename,
            start_line: f.start_line,
        })?;
        moved.functions[index as usize] = Some(merged);
        Ok(merged)
    }

    fn location(&mut self, moved: &mut Moved<'_>, index: u32) -> Result<LocationIndex, BuildError> {
        if let Some(known) = look_up(&moved.locations, index, "location")? {
            return Ok(*known);
        }
        let location = look_up(&moved.from.locations, index, "location")?;
        let (mapping, by) = match location.mapping {
            Some(at) => {
                let (at, by) = self.mapping(moved, at.get())?;
                (Some(at), by)
            }
            None => (None, 0),
        };
        let mut lines = Vec::with_capacity(location.lines.len());
        for line in &location.lines {
            let function = match line.function {
                Some(at) => Some(self.function(moved, at.get())?),
                None => None,
            };
            lines.push(Line { function, ..*line });
        }
        let address = location.address.wrapping_add(by);
        let merged = self.builder.any_location(mapping, address, &lines, location.is_folded)?;
        moved.locations[index as usize] = Some(merged);
        Ok(merged)
    }
}

/// Labels in an order of their own, so that the same are equal: by key, of each key the texts
/// first. A number 0 without a unit is how the format says that there is no value.
fn by_key(labels: &[Label]) -> Cow<'_, [Label]> {
    let is_number = |l: &Label| matches!(l.value, LabelValue::Number { .. });
    let is_nothing = |l: &Label| match &l.value {
        LabelValue::Number { value, unit } => *value == 0 && unit.is_empty(),
        LabelValue::Text(text) => text.is_empty(),
    };
    let is_sorted = labels.is_sorted_by(|a, b| (&a.key, is_number(a)) <= (&b.key, is_number(b)));
    if is_sorted && !labels.iter().any(is_nothing) {
        return Cow::Borrowed(labels);
    }
    let mut labels: Vec<Label> = labels.iter().filter(|l| !is_nothing(l)).cloned().collect();
    labels.sort_by(|a, b| (&a.key, is_number(a)).cmp(&(&b.key, is_number(b))));
    Cow::Owned(labels)
}

fn look_up<'t, T>(table: &'t [T], index: u32, name: &'static str) -> Result<&'t T, BuildError> {
    table.get(index as usize).ok_or(BuildError::Unknown { table: name, index })
}

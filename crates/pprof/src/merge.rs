//! Merges profiles, with the semantics of google/pprof's `profile.Merge`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::align::scaled;
use crate::{
    BuildError, FunctionIndex, FunctionSpec, Label, LabelValue, Line, LocationIndex, Mapping,
    MappingIndex, Profile, ProfileBuilder, Samples, ValueType,
};

/// The label that marks the samples of a diff's base in pprof's reports.
pub const BASE_LABEL: &str = "pprof::base";

/// Why profiles could not be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// There is no profile.
    #[error("no profiles to merge")]
    NoProfiles,
    /// The profiles measure different things.
    #[error(
        "cannot merge profile {profile}: it has sample types {theirs}, but the first has {ours}"
    )]
    SampleTypes {
        /// The profile that differs, counted from 1.
        profile: usize,
        /// Its types.
        theirs: String,
        /// The first profile's types.
        ours: String,
    },
    /// The sampling intervals count different things.
    #[error(
        "cannot merge profile {profile}: it has period type {theirs}, but the first has {ours}"
    )]
    PeriodTypes {
        /// The profile that differs, counted from 1.
        profile: usize,
        /// Its type.
        theirs: ValueType,
        /// The first profile's type.
        ours: ValueType,
    },
    /// A profile is inconsistent, or the result is too large.
    #[error("cannot merge profile {profile}: {source}")]
    Inconsistent {
        /// The profile, counted from 1.
        profile: usize,
        /// What is wrong.
        source: BuildError,
    },
}

/// Merges profiles: adds up the values of equal samples.
///
/// - All must have the same sample types, in order, and the same period type.
/// - Mappings are equal if build ID (or else file), offset and size (rounded up to 4 KiB) are equal.
///   Addresses are relocated to the first one's start, so runs of a position-independent program
///   merge although it was loaded at different addresses.
/// - Durations are added, the largest period wins, and each distinct comment is kept once. The
///   default type and the documentation URL come from the first profile that has one, the frame
///   filters from the first profile. The start time is chosen as in google/pprof: the earliest, or
///   none if a profile without one follows.
/// - Locations and mappings are ordered by first use, after the main binary.
/// - Samples with equal stacks and labels are merged. Samples that are or become 0 are dropped, with
///   every entry that only they use.
///
/// The `has_*` flags of a merged mapping come from the first profile with a sample in it. Call
/// [`Profile::set_symbol_flags`] if others will symbolize the result.
///
/// # Errors
/// When the profiles measure different things, or one is inconsistent.
pub fn merge<'p>(profiles: impl IntoIterator<Item = &'p Profile>) -> Result<Profile, MergeError> {
    let profiles: Vec<&Profile> = profiles.into_iter().collect();
    let header = combine_headers(&profiles)?;
    let mut merger =
        Merger { builder: ProfileBuilder::with_header(header), mappings: HashMap::new() };
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
        self.samples.map_values(|_, v| scaled(v, ratio));
        self.samples.retain(|s| s.values.iter().any(|v| *v != 0));
    }

    /// Negates all values. Saturates.
    pub fn negate(&mut self) {
        self.samples.map_values(|_, v| v.saturating_neg());
    }

    /// Marks all samples as the base of a diff. To subtract it, [negate](Self::negate) and [merge]
    /// it. Reports then take percentages of the base's total.
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

/// Identifies the same mapping in different processes.
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

/// The merged index of each entry of one profile; `None` if no sample has used it yet.
struct Remap<'p> {
    from: &'p Profile,
    mappings: Vec<Option<(MappingIndex, u64)>>,
    functions: Vec<Option<FunctionIndex>>,
    locations: Vec<Option<LocationIndex>>,
}

impl Merger {
    fn add(&mut self, p: &Profile) -> Result<(), BuildError> {
        let mut remap = Remap {
            from: p,
            mappings: vec![None; p.mappings.len()],
            functions: vec![None; p.functions.len()],
            locations: vec![None; p.locations.len()],
        };
        if self.mappings.is_empty() && !p.mappings.is_empty() {
            // The main binary comes first, whether a sample uses it or not.
            self.mapping(&mut remap, 0)?;
        }
        let mut stack: Vec<LocationIndex> = Vec::new();
        for sample in p.samples.iter().filter(|s| s.values.iter().any(|v| *v != 0)) {
            stack.clear();
            for at in sample.locations {
                stack.push(self.location(&mut remap, at.get())?);
            }
            self.builder.add_sample(&stack, sample.values, &by_key(sample.labels))?;
        }
        Ok(())
    }

    /// The merged mapping, and the offset to add to addresses in the mapping at `index`.
    fn mapping(
        &mut self,
        remap: &mut Remap<'_>,
        index: u32,
    ) -> Result<(MappingIndex, u64), BuildError> {
        if let Some(known) = look_up(&remap.mappings, index, "mapping")? {
            return Ok(*known);
        }
        let m = look_up(&remap.from.mappings, index, "mapping")?;
        let (at, start) = match self.mappings.entry(MappingKey::new(m)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert((self.builder.push_mapping(m.clone())?, m.start)),
        };
        let merged = (at, start.wrapping_sub(m.start));
        remap.mappings[index as usize] = Some(merged);
        Ok(merged)
    }

    fn function(&mut self, remap: &mut Remap<'_>, index: u32) -> Result<FunctionIndex, BuildError> {
        if let Some(known) = look_up(&remap.functions, index, "function")? {
            return Ok(*known);
        }
        let f = look_up(&remap.from.functions, index, "function")?;
        let merged = self.builder.function(FunctionSpec {
            name: &f.name,
            system_name: &f.system_name,
            filename: &f.filename,
            start_line: f.start_line,
        })?;
        remap.functions[index as usize] = Some(merged);
        Ok(merged)
    }

    fn location(&mut self, remap: &mut Remap<'_>, index: u32) -> Result<LocationIndex, BuildError> {
        if let Some(known) = look_up(&remap.locations, index, "location")? {
            return Ok(*known);
        }
        let location = look_up(&remap.from.locations, index, "location")?;
        let (mapping, offset) = match location.mapping {
            Some(at) => {
                let (at, offset) = self.mapping(remap, at.get())?;
                (Some(at), offset)
            }
            None => (None, 0),
        };
        let mut lines = Vec::with_capacity(location.lines.len());
        for line in &location.lines {
            let function = match line.function {
                Some(at) => Some(self.function(remap, at.get())?),
                None => None,
            };
            lines.push(Line { function, ..*line });
        }
        let address = location.address.wrapping_add(offset);
        let merged = self.builder.any_location(mapping, address, &lines, location.is_folded)?;
        remap.locations[index as usize] = Some(merged);
        Ok(merged)
    }
}

/// Labels in canonical order, so that equal sets compare equal: by key, texts before numbers. Drops
/// the number 0 without a unit, which means "no value" in the format.
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

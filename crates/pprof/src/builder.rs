//! Building a profile while a recording runs: equal things become one.

use std::borrow::Cow;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::hash::{HashIndex, hash_of};
use crate::samples::LabelSet;
use crate::{
    Function, FunctionIndex, Label, LabelValue, Line, Location, LocationIndex, Mapping,
    MappingIndex, Profile, Samples, ValueType,
};

/// Why something could not be added to a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A sample needs one value for each sample type.
    #[error("sample has {given} values but the profile has {expected} sample types")]
    ValueCount {
        /// Values of the sample.
        given: usize,
        /// Sample types of the profile.
        expected: usize,
    },
    /// An index that this builder did not hand out.
    #[error("{table} {index} is not in this profile")]
    Unknown {
        /// The table.
        table: &'static str,
        /// The index.
        index: u32,
    },
    /// More entries than 32 bits can number.
    #[error("too many {table}s")]
    Full {
        /// The table.
        table: &'static str,
    },
}

/// A mapping to add. See [`Mapping`] for the fields.
///
/// Whether it is symbolized is not stated here: [`ProfileBuilder::finish`] finds out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MappingSpec<'a> {
    /// First address, in the process.
    pub start: u64,
    /// Address after the last, in the process.
    pub limit: u64,
    /// Offset in the file of `start`.
    pub offset: u64,
    /// The path in the process's view, or a name such as `[vdso]`.
    pub file: &'a str,
    /// GNU build id in lower-case hex, or empty.
    pub build_id: &'a str,
}

/// A function to add. See [`Function`] for the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FunctionSpec<'a> {
    /// The name for people (demangled).
    pub name: &'a str,
    /// The linker's name (mangled).
    pub system_name: &'a str,
    /// Source file, or empty.
    pub filename: &'a str,
    /// First line of the function; 0 when unknown.
    pub start_line: i64,
}

/// Builds a [`Profile`].
///
/// Adding something twice gives the same index; adding a stack twice with equal labels adds the
/// values. Order of first appearance is the order of the output, so equal calls give equal bytes.
/// The first mapping that is added is the main binary.
#[derive(Debug)]
pub struct ProfileBuilder {
    profile: Profile,
    strings: FxHashSet<Arc<str>>,
    mappings: HashIndex,
    locations: HashIndex,
    functions: HashIndex,
    label_sets: HashIndex,
    samples: HashIndex,
}

impl ProfileBuilder {
    /// An empty profile with these sample types.
    #[must_use]
    pub fn new(sample_types: Vec<ValueType>) -> Self {
        let samples = Samples::new(sample_types.len());
        Self::around(Profile { sample_types, samples, ..Profile::default() })
    }

    /// A builder that adds to the header of `profile`, whose tables must be empty.
    pub(crate) fn around(profile: Profile) -> Self {
        Self {
            profile,
            strings: FxHashSet::default(),
            mappings: HashIndex::default(),
            locations: HashIndex::default(),
            functions: HashIndex::default(),
            label_sets: HashIndex::default(),
            samples: HashIndex::default(),
        }
    }

    /// The sampling interval and what it counts.
    pub fn set_period(&mut self, kind: ValueType, period: i64) -> &mut Self {
        self.profile.period_type = kind;
        self.profile.period = period;
        self
    }

    /// Start of the recording, in nanoseconds since the Unix epoch.
    pub const fn set_time_nanos(&mut self, nanos: i64) -> &mut Self {
        self.profile.time_nanos = nanos;
        self
    }

    /// Length of the recording in nanoseconds.
    pub const fn set_duration_nanos(&mut self, nanos: i64) -> &mut Self {
        self.profile.duration_nanos = nanos;
        self
    }

    /// The name of the sample type to show first, in place of the last.
    pub fn set_default_sample_type(&mut self, kind: &str) -> &mut Self {
        self.profile.default_sample_type = self.intern(kind);
        self
    }

    /// Absolute link to documentation of this kind of profile.
    pub fn set_doc_url(&mut self, url: &str) -> &mut Self {
        self.profile.doc_url = self.intern(url);
        self
    }

    /// See [`Profile::drop_frames`] and [`Profile::keep_frames`].
    pub fn set_frame_filter(&mut self, drop: &str, keep: &str) -> &mut Self {
        self.profile.drop_frames = self.intern(drop);
        self.profile.keep_frames = self.intern(keep);
        self
    }

    /// Adds a comment, unless it is there already.
    pub fn comment(&mut self, text: &str) -> &mut Self {
        if !self.profile.comments.iter().any(|c| &**c == text) {
            let text = self.intern(text);
            self.profile.comments.push(text);
        }
        self
    }

    /// Adds a mapping.
    ///
    /// # Errors
    /// [`BuildError::Full`].
    pub fn mapping(&mut self, spec: MappingSpec<'_>) -> Result<MappingIndex, BuildError> {
        let hash = hash_of(&spec);
        let known = &self.profile.mappings;
        if let Some(at) = self.mappings.find(hash, |at| spec.is(&known[at as usize])) {
            return Ok(MappingIndex::new(at));
        }
        let mapping = Mapping {
            start: spec.start,
            limit: spec.limit,
            offset: spec.offset,
            file: self.intern(spec.file),
            build_id: self.intern(spec.build_id),
            ..Mapping::default()
        };
        let at = self.push_mapping(mapping)?;
        self.mappings.insert(hash, at.get());
        Ok(at)
    }

    /// Adds a mapping without looking for an equal one.
    pub(crate) fn push_mapping(&mut self, mapping: Mapping) -> Result<MappingIndex, BuildError> {
        let at = next_in(self.profile.mappings.len(), "mapping")?;
        self.profile.mappings.push(mapping);
        Ok(MappingIndex::new(at))
    }

    /// Adds a function.
    ///
    /// # Errors
    /// [`BuildError::Full`].
    pub fn function(&mut self, spec: FunctionSpec<'_>) -> Result<FunctionIndex, BuildError> {
        let hash = hash_of(&spec);
        let known = &self.profile.functions;
        if let Some(at) = self.functions.find(hash, |at| spec.is(&known[at as usize])) {
            return Ok(FunctionIndex::new(at));
        }
        let at = next_in(known.len(), "function")?;
        let function = Function {
            name: self.intern(spec.name),
            system_name: self.intern(spec.system_name),
            filename: self.intern(spec.filename),
            start_line: spec.start_line,
        };
        self.profile.functions.push(function);
        self.functions.insert(hash, at);
        Ok(FunctionIndex::new(at))
    }

    /// Adds a code address of a mapping, `lines` innermost first.
    ///
    /// Without lines the reader symbolizes. The same address with other lines is another location.
    ///
    /// # Errors
    /// [`BuildError::Unknown`] for a mapping or function of another builder, [`BuildError::Full`].
    pub fn location(
        &mut self,
        mapping: MappingIndex,
        address: u64,
        lines: &[Line],
    ) -> Result<LocationIndex, BuildError> {
        self.any_location(Some(mapping), address, lines, false)
    }

    /// Adds any location that the format can express.
    pub(crate) fn any_location(
        &mut self,
        mapping: Option<MappingIndex>,
        address: u64,
        lines: &[Line],
        is_folded: bool,
    ) -> Result<LocationIndex, BuildError> {
        let hash = hash_of(&(mapping, address, lines, is_folded));
        let known = &self.profile.locations;
        let found = self.locations.find(hash, |at| {
            let l = &known[at as usize];
            l.mapping == mapping
                && l.address == address
                && l.lines == lines
                && l.is_folded == is_folded
        });
        if let Some(at) = found {
            return Ok(LocationIndex::new(at));
        }
        if let Some(m) = mapping {
            known_in(self.profile.mappings.len(), m.get(), "mapping")?;
        }
        for function in lines.iter().filter_map(|l| l.function) {
            known_in(self.profile.functions.len(), function.get(), "function")?;
        }
        let at = next_in(known.len(), "location")?;
        let location = Location { mapping, address, lines: lines.to_vec(), is_folded };
        self.profile.locations.push(location);
        self.locations.insert(hash, at);
        Ok(LocationIndex::new(at))
    }

    /// Adds `values` to the stack (leaf first) under these labels.
    ///
    /// Labels are kept sorted by key. A label with empty text is left out: the format has no way to
    /// say it. Sums stop at the ends of the range of `i64`.
    ///
    /// # Errors
    /// [`BuildError::ValueCount`], [`BuildError::Unknown`] for a location of another builder,
    /// [`BuildError::Full`]. Nothing is added then.
    pub fn add_sample(
        &mut self,
        stack: &[LocationIndex],
        values: &[i64],
        labels: &[Label],
    ) -> Result<(), BuildError> {
        let expected = self.profile.samples.width();
        if values.len() != expected {
            return Err(BuildError::ValueCount { given: values.len(), expected });
        }
        for location in stack {
            known_in(self.profile.locations.len(), location.get(), "location")?;
        }
        let set = self.label_set(labels)?;
        let hash = hash_of(&(stack, set));
        let samples = &self.profile.samples;
        let found = self.samples.find(hash, |at| {
            let at = at as usize;
            samples.label_set(at) == Some(set) && samples.stack(at) == Some(stack)
        });
        if let Some(at) = found {
            self.profile.samples.add_values(at as usize, values);
            return Ok(());
        }
        let at = next_in(samples.len(), "sample")?;
        self.profile.samples.push(stack, values, set);
        self.samples.insert(hash, at);
        Ok(())
    }

    /// How many distinct samples there are so far.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        self.profile.samples.len()
    }

    /// The profile, without what no sample uses.
    ///
    /// The first mapping stays in any case. The `has_*` flags of each mapping are set by
    /// [`Profile::set_symbol_flags`].
    #[must_use]
    pub fn finish(self) -> Profile {
        let mut profile = self.profile;
        profile.compact();
        profile.set_symbol_flags();
        profile
    }

    /// The profile as it was added.
    pub(crate) fn into_profile(self) -> Profile {
        self.profile
    }

    fn label_set(&mut self, labels: &[Label]) -> Result<LabelSet, BuildError> {
        let labels = canonical(labels);
        if labels.is_empty() {
            return Ok(0);
        }
        let hash = hash_of(&*labels);
        let known = self.profile.samples.labels();
        if let Some(set) = self.label_sets.find(hash, |set| known.get(set) == &*labels) {
            return Ok(set);
        }
        next_in(known.len() as usize + 1, "label set")?;
        let set = self.profile.samples.labels_mut().push(labels.iter().cloned());
        self.label_sets.insert(hash, set);
        Ok(set)
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.strings.insert(Arc::clone(&text));
        text
    }
}

impl MappingSpec<'_> {
    fn is(&self, m: &Mapping) -> bool {
        self.start == m.start
            && self.limit == m.limit
            && self.offset == m.offset
            && self.file == &*m.file
            && self.build_id == &*m.build_id
    }
}

impl FunctionSpec<'_> {
    fn is(&self, f: &Function) -> bool {
        self.start_line == f.start_line
            && self.name == &*f.name
            && self.system_name == &*f.system_name
            && self.filename == &*f.filename
    }
}

/// Labels sorted by key, without those that cannot be written.
fn canonical(labels: &[Label]) -> Cow<'_, [Label]> {
    let is_writable = |l: &Label| !matches!(&l.value, LabelValue::Text(text) if text.is_empty());
    if labels.is_sorted_by(|a, b| a.key <= b.key) && labels.iter().all(is_writable) {
        return Cow::Borrowed(labels);
    }
    let mut owned: Vec<Label> = labels.iter().filter(|l| is_writable(l)).cloned().collect();
    owned.sort_by(|a, b| a.key.cmp(&b.key));
    Cow::Owned(owned)
}

/// The position of the next entry of a table with `len` entries.
fn next_in(len: usize, table: &'static str) -> Result<u32, BuildError> {
    // The last id on the wire is the position + 1, and readers keep ids in 32 bits, too.
    u32::try_from(len).ok().filter(|at| *at < u32::MAX).ok_or(BuildError::Full { table })
}

fn known_in(len: usize, index: u32, table: &'static str) -> Result<(), BuildError> {
    if (index as usize) < len { Ok(()) } else { Err(BuildError::Unknown { table, index }) }
}

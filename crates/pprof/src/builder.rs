//! Builds a profile incrementally; equal mappings, functions, locations and samples are merged.

use std::borrow::Cow;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::hash::{HashIndex, hash_of};
use crate::samples::LabelSet;
use crate::{
    Function, FunctionIndex, Label, LabelValue, Line, Location, LocationIndex, Mapping,
    MappingIndex, Profile, Samples, ValueType,
};

/// Why an entry could not be added to a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A sample must have one value for each sample type.
    #[error("number of values in the sample: {given}, sample types of the profile: {expected}")]
    ValueCount {
        /// Values of the sample.
        given: usize,
        /// Sample types of the profile.
        expected: usize,
    },
    /// The index did not come from this builder.
    #[error("{table} {index} is not in this profile")]
    Unknown {
        /// The table.
        table: &'static str,
        /// The index.
        index: u32,
    },
    /// The table is full: its indices have 32 bits.
    #[error("too many {table}s")]
    Full {
        /// The table.
        table: &'static str,
    },
}

/// A mapping to add. See [`Mapping`] for the fields.
///
/// [`ProfileBuilder::finish`] sets the `has_*` flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MappingSpec<'a> {
    /// First virtual address in the process.
    pub start: u64,
    /// End of the virtual addresses (exclusive).
    pub limit: u64,
    /// File offset of `start`, in bytes.
    pub offset: u64,
    /// The path as the process sees it, or a name such as `[vdso]`.
    pub file: &'a str,
    /// GNU build ID in lower-case hex, or empty.
    pub build_id: &'a str,
}

/// A function to add. See [`Function`] for the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FunctionSpec<'a> {
    /// The demangled name.
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
/// Adding an equal entry again returns the same index; adding an equal stack with equal labels again
/// adds up the values. Entries keep the order in which they were first added, so equal calls give
/// equal bytes. The first mapping is the main binary.
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
        Self::with_header(Profile { sample_types, samples, ..Profile::default() })
    }

    /// A builder with the header of `profile`, whose tables must be empty.
    pub(crate) fn with_header(profile: Profile) -> Self {
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

    /// Sets the sampling interval, in units of `kind`.
    pub fn set_period(&mut self, kind: ValueType, period: i64) -> &mut Self {
        self.profile.period_type = kind;
        self.profile.period = period;
        self
    }

    /// Sets the start of the recording, in nanoseconds since the Unix epoch.
    pub const fn set_time_nanos(&mut self, nanos: i64) -> &mut Self {
        self.profile.time_nanos = nanos;
        self
    }

    /// Sets the length of the recording in nanoseconds.
    pub const fn set_duration_nanos(&mut self, nanos: i64) -> &mut Self {
        self.profile.duration_nanos = nanos;
        self
    }

    /// Sets the sample type that readers show first. Default: the last.
    pub fn set_default_sample_type(&mut self, kind: &str) -> &mut Self {
        self.profile.default_sample_type = self.intern(kind);
        self
    }

    /// Sets an absolute URL with documentation of this kind of profile.
    pub fn set_doc_url(&mut self, url: &str) -> &mut Self {
        self.profile.doc_url = self.intern(url);
        self
    }

    /// Sets [`Profile::drop_frames`] and [`Profile::keep_frames`].
    pub fn set_frame_filter(&mut self, drop: &str, keep: &str) -> &mut Self {
        self.profile.drop_frames = self.intern(drop);
        self.profile.keep_frames = self.intern(keep);
        self
    }

    /// Adds a comment, unless the profile has an equal one.
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
        if let Some(at) = self.mappings.find(hash, |at| spec.equals(&known[at as usize])) {
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
        let at = next_index(self.profile.mappings.len(), "mapping")?;
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
        if let Some(at) = self.functions.find(hash, |at| spec.equals(&known[at as usize])) {
            return Ok(FunctionIndex::new(at));
        }
        let at = next_index(known.len(), "function")?;
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

    /// Adds a code address in a mapping, with its `lines`, innermost first.
    ///
    /// Without lines, readers symbolize it. The same address with other lines is another location.
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

    /// Adds a location with any fields that the format allows.
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
            check_index(self.profile.mappings.len(), m.get(), "mapping")?;
        }
        for function in lines.iter().filter_map(|l| l.function) {
            check_index(self.profile.functions.len(), function.get(), "function")?;
        }
        let at = next_index(known.len(), "location")?;
        let location = Location { mapping, address, lines: lines.to_vec(), is_folded };
        self.profile.locations.push(location);
        self.locations.insert(hash, at);
        Ok(LocationIndex::new(at))
    }

    /// Adds `values` to the stack (leaf first) under these labels.
    ///
    /// Labels are sorted by key. Labels with empty text are dropped, since the format cannot express
    /// them. Sums saturate.
    ///
    /// # Errors
    /// [`BuildError::ValueCount`], [`BuildError::Unknown`] for a location of another builder,
    /// [`BuildError::Full`]. On error, nothing is added.
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
            check_index(self.profile.locations.len(), location.get(), "location")?;
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
        let at = next_index(samples.len(), "sample")?;
        self.profile.samples.push(stack, values, set);
        self.samples.insert(hash, at);
        Ok(())
    }

    /// The number of distinct samples so far.
    #[must_use]
    pub fn sample_count(&self) -> usize {
        self.profile.samples.len()
    }

    /// Returns the profile, without entries that no sample uses.
    ///
    /// The first mapping always stays. The `has_*` flags of each mapping are set by
    /// [`Profile::set_symbol_flags`].
    #[must_use]
    pub fn finish(self) -> Profile {
        let mut profile = self.profile;
        profile.compact();
        profile.set_symbol_flags();
        profile
    }

    /// Returns the profile with unused entries.
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
        next_index(known.len() as usize + 1, "label set")?;
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
    fn equals(&self, m: &Mapping) -> bool {
        self.start == m.start
            && self.limit == m.limit
            && self.offset == m.offset
            && self.file == &*m.file
            && self.build_id == &*m.build_id
    }
}

impl FunctionSpec<'_> {
    fn equals(&self, f: &Function) -> bool {
        self.start_line == f.start_line
            && self.name == &*f.name
            && self.system_name == &*f.system_name
            && self.filename == &*f.filename
    }
}

/// Labels sorted by key, without those that the format cannot express.
fn canonical(labels: &[Label]) -> Cow<'_, [Label]> {
    let is_writable = |l: &Label| !matches!(&l.value, LabelValue::Text(text) if text.is_empty());
    if labels.is_sorted_by(|a, b| a.key <= b.key) && labels.iter().all(is_writable) {
        return Cow::Borrowed(labels);
    }
    let mut owned: Vec<Label> = labels.iter().filter(|l| is_writable(l)).cloned().collect();
    owned.sort_by(|a, b| a.key.cmp(&b.key));
    Cow::Owned(owned)
}

/// The index of the next entry of a table with `len` entries.
fn next_index(len: usize, table: &'static str) -> Result<u32, BuildError> {
    // The wire id is the index + 1, and some readers keep ids in 32 bits.
    u32::try_from(len).ok().filter(|at| *at < u32::MAX).ok_or(BuildError::Full { table })
}

fn check_index(len: usize, index: u32, table: &'static str) -> Result<(), BuildError> {
    if (index as usize) < len { Ok(()) } else { Err(BuildError::Unknown { table, index }) }
}

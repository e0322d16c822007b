//! The profile as it is worked with: resolved strings, dense indices.

use std::ops::Index;
use std::sync::Arc;

use crate::Samples;

macro_rules! table_index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The entry at this position, counted from 0.
            #[must_use]
            pub const fn new(position: u32) -> Self {
                Self(position)
            }

            /// The position, counted from 0.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }

            /// The position as a subscript.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// The id on the wire, where 0 means "none".
            pub(crate) const fn wire_id(self) -> u64 {
                self.0 as u64 + 1
            }
        }
    };
}

table_index! {
    /// A position in [`Profile::mappings`].
    MappingIndex
}
table_index! {
    /// A position in [`Profile::locations`].
    LocationIndex
}
table_index! {
    /// A position in [`Profile::functions`].
    FunctionIndex
}

/// One recording.
///
/// Every index inside a profile that comes from [`ProfileBuilder`](crate::ProfileBuilder),
/// [`decode`](crate::decode()) or [`merge`](crate::merge()) lies within its table. Who edits the
/// tables keeps it so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// What each value of a sample means, in order.
    pub sample_types: Vec<ValueType>,
    /// The type to show first; empty for the last of `sample_types`.
    pub default_sample_type: Arc<str>,
    /// The measured stacks.
    pub samples: Samples,
    /// Address ranges of the process; the first is the main binary.
    pub mappings: Vec<Mapping>,
    /// The code addresses of the samples.
    pub locations: Vec<Location>,
    /// The functions of the locations.
    pub functions: Vec<Function>,
    /// Expression over function names: matching frames, and what they called, are dropped by
    /// readers. Empty for none.
    pub drop_frames: Arc<str>,
    /// Expression over function names that exempts from `drop_frames`. Empty for none.
    pub keep_frames: Arc<str>,
    /// Start of the recording in nanoseconds since the Unix epoch; 0 when unknown.
    pub time_nanos: i64,
    /// Length of the recording in nanoseconds; 0 where it means nothing.
    pub duration_nanos: i64,
    /// What `period` counts.
    pub period_type: ValueType,
    /// The sampling interval in units of `period_type`.
    pub period: i64,
    /// Free text. Readers hide comments that begin with `#`.
    pub comments: Vec<Arc<str>>,
    /// Absolute link to documentation, or empty.
    pub doc_url: Arc<str>,
}

impl Profile {
    /// The position in `sample_types` of the type with this name.
    #[must_use]
    pub fn sample_type_index(&self, name: &str) -> Option<usize> {
        self.sample_types.iter().position(|t| &*t.kind == name)
    }

    /// The sample type that readers show first: the default, or else the last.
    ///
    /// `None` for a profile without sample types.
    #[must_use]
    pub fn default_sample_type_index(&self) -> Option<usize> {
        let default = Some(&*self.default_sample_type).filter(|name| !name.is_empty());
        default
            .and_then(|name| self.sample_type_index(name))
            .or_else(|| self.sample_types.len().checked_sub(1))
    }
}

impl Index<MappingIndex> for Profile {
    type Output = Mapping;

    /// # Panics
    /// When the index belongs to another profile, as with slices.
    fn index(&self, index: MappingIndex) -> &Mapping {
        &self.mappings[index.index()]
    }
}

impl Index<LocationIndex> for Profile {
    type Output = Location;

    /// # Panics
    /// When the index belongs to another profile, as with slices.
    fn index(&self, index: LocationIndex) -> &Location {
        &self.locations[index.index()]
    }
}

impl Index<FunctionIndex> for Profile {
    type Output = Function;

    /// # Panics
    /// When the index belongs to another profile, as with slices.
    fn index(&self, index: FunctionIndex) -> &Function {
        &self.functions[index.index()]
    }
}

/// A quantity and its unit, such as cpu in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// The quantity (`type` on the wire).
    pub kind: Arc<str>,
    /// The unit.
    pub unit: Arc<str>,
}

impl ValueType {
    /// A quantity and its unit.
    pub fn new(kind: impl Into<Arc<str>>, unit: impl Into<Arc<str>>) -> Self {
        Self { kind: kind.into(), unit: unit.into() }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.unit)
    }
}

/// One address range of the recorded process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address, in the process.
    pub start: u64,
    /// Address after the last, in the process.
    pub limit: u64,
    /// Offset in the file of `start`.
    pub offset: u64,
    /// The path in the process's view, or a name such as `[vdso]`.
    pub file: Arc<str>,
    /// GNU build id in lower-case hex, or empty.
    pub build_id: Arc<str>,
    /// All locations have function names, so readers need not look for them.
    pub has_functions: bool,
    /// All locations have source files.
    pub has_filenames: bool,
    /// All locations have line numbers.
    pub has_line_numbers: bool,
    /// Inlined calls are expanded.
    pub has_inline_frames: bool,
}

/// One code address, with its source lines when they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The mapping around `address`.
    pub mapping: Option<MappingIndex>,
    /// Address in the process: of the interrupted instruction for a leaf, within the call
    /// instruction (return address − 1) for a caller.
    pub address: u64,
    /// Innermost inlined call first, the function that holds the instruction last. Empty when the
    /// reader shall symbolize.
    pub lines: Vec<Line>,
    /// The linker folded several functions into these bytes, so the lines may name another one.
    pub is_folded: bool,
}

/// A position in a function's source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Line {
    /// The function.
    pub function: Option<FunctionIndex>,
    /// Line, counted from 1; 0 when unknown.
    pub line: i64,
    /// Column, counted from 1; 0 when unknown.
    pub column: i64,
}

impl Line {
    /// A line of a function, the column unknown. `line` is 0 when unknown.
    #[must_use]
    pub const fn new(function: FunctionIndex, line: i64) -> Self {
        Self { function: Some(function), line, column: 0 }
    }
}

/// A function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Function {
    /// The name for people (demangled).
    pub name: Arc<str>,
    /// The linker's name (mangled). Readers demangle when it equals `name`.
    pub system_name: Arc<str>,
    /// Source file, or empty.
    pub filename: Arc<str>,
    /// First line of the function; 0 when unknown.
    pub start_line: i64,
}

/// What else is known of a sample. A sample has one label for a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    /// The key. `pprof::` begins the keys that readers reserve.
    pub key: Arc<str>,
    /// The value.
    pub value: LabelValue,
}

/// The value of a [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelValue {
    /// Text. The format cannot tell empty text from the number 0 without a unit.
    Text(Arc<str>),
    /// A number in a unit.
    Number {
        /// The number.
        value: i64,
        /// Its unit; readers take the key when this is empty.
        unit: Arc<str>,
    },
}

impl Label {
    /// A label with text.
    pub fn text(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), value: LabelValue::Text(value.into()) }
    }

    /// A label with a number in `unit`.
    pub fn number(key: impl Into<Arc<str>>, value: i64, unit: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), value: LabelValue::Number { value, unit: unit.into() } }
    }
}

//! Holds a decoded profile: tables with resolved strings, linked by dense indices.

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
/// [`decode`](crate::decode()) or [`merge`](crate::merge()) lies within its table. Code that edits
/// the tables must preserve this.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// What each value of a sample means, in order.
    pub sample_types: Vec<ValueType>,
    /// The type that readers show first; empty for the last of `sample_types`.
    pub default_sample_type: Arc<str>,
    /// Stacks with their values and labels.
    pub samples: Samples,
    /// Address ranges of the recorded process; the first is the main binary.
    pub mappings: Vec<Mapping>,
    /// The code addresses of the samples.
    pub locations: Vec<Location>,
    /// The functions of the locations.
    pub functions: Vec<Function>,
    /// Regular expression over function names: readers drop matching frames and their callees.
    /// Empty for none.
    pub drop_frames: Arc<str>,
    /// Regular expression over function names that are exempt from `drop_frames`. Empty for none.
    pub keep_frames: Arc<str>,
    /// Start of the recording in nanoseconds since the Unix epoch; 0 when unknown.
    pub time_nanos: i64,
    /// Length of the recording in nanoseconds; 0 when not applicable.
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
    /// When the index is out of range, as with slices.
    fn index(&self, index: MappingIndex) -> &Mapping {
        &self.mappings[index.index()]
    }
}

impl Index<LocationIndex> for Profile {
    type Output = Location;

    /// # Panics
    /// When the index is out of range, as with slices.
    fn index(&self, index: LocationIndex) -> &Location {
        &self.locations[index.index()]
    }
}

impl Index<FunctionIndex> for Profile {
    type Output = Function;

    /// # Panics
    /// When the index is out of range, as with slices.
    fn index(&self, index: FunctionIndex) -> &Function {
        &self.functions[index.index()]
    }
}

/// A quantity and its unit, such as `cpu` in `nanoseconds`.
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
    /// First virtual address in the process.
    pub start: u64,
    /// End of the virtual addresses (exclusive).
    pub limit: u64,
    /// File offset of `start`, in bytes.
    pub offset: u64,
    /// The path as the process sees it, or a name such as `[vdso]`.
    pub file: Arc<str>,
    /// GNU build ID in lower-case hex, or empty.
    pub build_id: Arc<str>,
    /// All locations have function names, so readers don't symbolize them.
    pub has_functions: bool,
    /// All locations have source files.
    pub has_filenames: bool,
    /// All locations have line numbers.
    pub has_line_numbers: bool,
    /// Inlined calls are expanded.
    pub has_inline_frames: bool,
}

/// One code address, with its source lines if known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The mapping that contains `address`.
    pub mapping: Option<MappingIndex>,
    /// Virtual address in the process: the interrupted instruction for a leaf, return address − 1
    /// (inside the call instruction) for a caller.
    pub address: u64,
    /// Innermost inlined call first, the function that contains the instruction last. Empty if
    /// readers should symbolize.
    pub lines: Vec<Line>,
    /// The linker folded identical functions, so the lines may name a different one.
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
    /// The demangled name.
    pub name: Arc<str>,
    /// The linker's name (mangled). Readers demangle if it equals `name`.
    pub system_name: Arc<str>,
    /// Source file, or empty.
    pub filename: Arc<str>,
    /// First line of the function; 0 when unknown.
    pub start_line: i64,
}

/// A key with a value, attached to a sample. A sample has at most one label per key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    /// The key. The prefix `pprof::` is reserved for readers.
    pub key: Arc<str>,
    /// The value.
    pub value: LabelValue,
}

/// The value of a [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelValue {
    /// Text. The format cannot distinguish empty text from the number 0 without a unit.
    Text(Arc<str>),
    /// A number in a unit.
    Number {
        /// The number.
        value: i64,
        /// Its unit; readers use the key if this is empty.
        unit: Arc<str>,
    },
}

impl Label {
    /// A text label.
    pub fn text(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), value: LabelValue::Text(value.into()) }
    }

    /// A numeric label in `unit`.
    pub fn number(key: impl Into<Arc<str>>, value: i64, unit: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), value: LabelValue::Number { value, unit: unit.into() } }
    }
}

//! Declares the messages of `proto/profile.proto`, by hand so that the build needs no protoc.
//!
//! Ids and string indices are not resolved here: these messages are for the decoder, the encoder and
//! the validator. Use [`Profile`](crate::Profile) elsewhere.
//! `tests/schema.rs` compares this file with the schema, field by field.

/// A whole profile on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Profile {
    /// Types of the sample values.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// The measured stacks.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Address ranges, the main binary first.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// Code addresses.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All strings. The schema has `string`; here they are bytes (the same on the wire), so that
    /// invalid UTF-8 is reported with the string's index instead of failing the whole message.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_table: Vec<Vec<u8>>,
    /// String index of the drop expression.
    #[prost(int64, tag = "7")]
    pub drop_frames: i64,
    /// String index of the keep expression.
    #[prost(int64, tag = "8")]
    pub keep_frames: i64,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// Nanoseconds.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What the period counts.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// The sampling interval.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// String indices of the comments.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    /// String index of the type to show first.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
    /// String index of the documentation link.
    #[prost(int64, tag = "15")]
    pub doc_url: i64,
}

/// A quantity and its unit, as string indices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ValueType {
    /// String index of the quantity.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// String index of the unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// One stack with its values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sample {
    /// Location ids, leaf first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One value for each sample type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// Labels.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A key with a string or a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Label {
    /// String index of the key.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// String index of the value, 0 for numeric labels.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// The number.
    #[prost(int64, tag = "3")]
    pub num: i64,
    /// String index of the number's unit.
    #[prost(int64, tag = "4")]
    pub num_unit: i64,
}

/// An address range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Mapping {
    /// Id, not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// First address.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Address after the last.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Offset in the file of the first address.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// String index of the path.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// String index of the build ID.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// All locations have function names.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    /// All locations have source files.
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    /// All locations have line numbers.
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
    /// Inlined calls are expanded.
    #[prost(bool, tag = "10")]
    pub has_inline_frames: bool,
}

/// A code address.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Location {
    /// Id, not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Id of the mapping, 0 for none.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Address in the recorded process.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// Innermost inlined call first.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
    /// The linker folded several functions here.
    #[prost(bool, tag = "5")]
    pub is_folded: bool,
}

/// A source position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Line {
    /// Id of the function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// Line, from 1.
    #[prost(int64, tag = "2")]
    pub line: i64,
    /// Column, from 1.
    #[prost(int64, tag = "3")]
    pub column: i64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Function {
    /// Id, not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// String index of the readable name.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// String index of the linker's name.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// String index of the source file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
    /// First line of the function.
    #[prost(int64, tag = "5")]
    pub start_line: i64,
}

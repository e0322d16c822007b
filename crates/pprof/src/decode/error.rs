//! Lists the errors of the decoder.

/// Why bytes could not be decoded. Each message is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the profile is empty (0 bytes)")]
    Empty,
    /// The gzip stream ends early.
    #[error("the gzip stream is truncated")]
    TruncatedGzip,
    /// The gzip stream is damaged.
    #[error("the gzip stream is damaged: {0}")]
    DamagedGzip(String),
    /// More bytes than [`Limits::max_bytes`](crate::Limits::max_bytes).
    #[error("the uncompressed profile exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// More strings than [`Limits::max_strings`](crate::Limits::max_strings).
    #[error("the string table exceeds the limit of {limit} entries")]
    TooManyStrings {
        /// The limit.
        limit: usize,
    },
    /// More memory than [`Limits::max_memory`](crate::Limits::max_memory).
    #[error("the decoded profile exceeds the limit of {limit} bytes of memory")]
    TooMuchMemory {
        /// The limit.
        limit: u64,
    },
    /// A known format other than pprof.
    #[error("not a pprof protobuf profile but {0}")]
    OtherFormat(&'static str),
    /// Readable text, such as an error page.
    #[error("not a pprof protobuf profile but text: {first_line:?}")]
    Text {
        /// The beginning of its first line.
        first_line: String,
    },
    /// The protobuf encoding is broken.
    #[error("malformed {message}: {reason}")]
    Wire {
        /// The message type.
        message: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Several profiles in one file.
    #[error("several profiles are concatenated")]
    Concatenated,
    /// `string_table[0]` is missing or not empty.
    #[error("string_table[0] is not the empty string")]
    FirstString,
    /// A string is not UTF-8.
    #[error("string_table[{index}] is not valid UTF-8")]
    Utf8 {
        /// Its index.
        index: usize,
    },
    /// A string index is negative or too large.
    #[error("{field} is string {index}, but the string table has {len} entries")]
    StringIndex {
        /// The field.
        field: &'static str,
        /// The index.
        index: i64,
        /// Entries of the string table.
        len: usize,
    },
    /// Id 0 means "none", so no entry may have it.
    #[error("a {table} has the reserved id 0")]
    ZeroId {
        /// The table.
        table: &'static str,
    },
    /// Two entries share an id.
    #[error("two {table}s have the id {id}")]
    DuplicateId {
        /// The table.
        table: &'static str,
        /// The id.
        id: u64,
    },
    /// A reference to a missing entry.
    #[error("a {from} refers to {table} {id}, which does not exist")]
    DanglingId {
        /// The kind of entry that has the reference.
        from: &'static str,
        /// The table.
        table: &'static str,
        /// The id.
        id: u64,
    },
    /// A sample has more or fewer values than there are sample types.
    #[error("sample {sample} has {given} values, but there are {expected} sample types")]
    ValueCount {
        /// The sample, counted from 0.
        sample: usize,
        /// Its values.
        given: usize,
        /// Sample types.
        expected: usize,
    },
    /// Samples, but no sample types.
    #[error("the profile has samples but no sample types")]
    NoSampleTypes,
}

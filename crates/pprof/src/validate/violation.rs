//! Lists the rules, one variant each.

/// A violation of one rule. Samples are counted from 0; other entries are named by wire id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages explain the fields")]
pub enum Violation {
    // The container and the string table.
    #[error("unreadable: {reason}")]
    Unreadable { reason: String },
    #[error("string_table[0] is not the empty string")]
    FirstString,
    #[error("string_table[{index}] is not valid UTF-8")]
    Utf8 { index: usize },
    #[error("string_table[{index}] repeats string_table[{first}]: {text:?}")]
    DuplicateString { index: usize, first: usize, text: String },
    #[error("{field} is string {index}, but the string table has {strings} entries")]
    StringIndex { field: &'static str, index: i64, strings: usize },

    // Ids and references.
    #[error("{table} ids are not 1..N in order: entry {position} has id {id}")]
    IdNotSequential { table: &'static str, position: usize, id: u64 },
    #[error("{from} refers to {table} {id}, which does not exist")]
    Dangling { from: String, table: &'static str, id: u64 },
    #[error("{table} {id} is unused")]
    Unused { table: &'static str, id: u64 },

    // Mappings.
    #[error("mapping {id} ({file}) is empty or inverted: {start:#x}..{limit:#x}")]
    MappingRange { id: u64, file: String, start: u64, limit: u64 },
    #[error("mapping {id} ({file}): {field} {value:#x} is not page-aligned")]
    MappingUnaligned { id: u64, file: String, field: &'static str, value: u64 },
    #[error("mapping {id} ({file}): build ID {build_id:?} is not lower-case hex")]
    BuildId { id: u64, file: String, build_id: String },
    #[error("mapping {id}: path {file:?} ends in \" (deleted)\"")]
    DeletedPath { id: u64, file: String },
    #[error("mapping {id}: path {file:?} is not the one that the process sees")]
    ProcRootPath { id: u64, file: String },
    #[error("mapping 1 is {file:?}, not the main binary {expected:?}")]
    MainBinary { file: String, expected: String },
    #[error("mapping {id} ({file}) has {flag}, but location {location} at {address:#x} does not")]
    UnfoundedFlag { id: u64, file: String, flag: &'static str, location: u64, address: u64 },

    // Locations.
    #[error("location {id} at {address:#x} has no mapping")]
    NoMapping { id: u64, address: u64 },
    #[error("location {id}: {address:#x} is outside mapping {mapping}, {start:#x}..{limit:#x}")]
    AddressOutside { id: u64, address: u64, mapping: u64, start: u64, limit: u64 },
    #[error("location {id} at {address:#x} has no lines, and {file:?} cannot be symbolized later")]
    NeverSymbolized { id: u64, address: u64, file: String },
    #[error("location {id} repeats location {first}")]
    DuplicateLocation { id: u64, first: u64 },
    #[error("location {id}: line {line} has no function")]
    LineWithoutFunction { id: u64, line: usize },
    #[error("location {id}: {inner} is inlined into {outer} but comes after it")]
    LineOrder { id: u64, inner: String, outer: String },

    // Functions.
    #[error("function {id} is named {name:?}: leave the location without lines instead")]
    PlaceholderName { id: u64, name: String },
    #[error("function {id} ({name}) has no system_name")]
    NoSystemName { id: u64, name: String },
    #[error("function {id} repeats function {first}: {name}")]
    DuplicateFunction { id: u64, first: u64, name: String },
    #[error("{place} has a negative line or column: {value}")]
    NegativeLine { place: String, value: i64 },

    // Samples.
    #[error("sample {sample} has {given} values, but there are {expected} sample types")]
    ValueCount { sample: usize, given: usize, expected: usize },
    #[error("sample {sample} has a negative value: {value}")]
    NegativeValue { sample: usize, value: i64 },
    #[error("sample {sample} has an empty stack")]
    EmptyStack { sample: usize },
    #[error("sample {sample} repeats sample {first}")]
    DuplicateSample { sample: usize, first: usize },
    #[error("sample {sample}: a label has no key")]
    NoLabelKey { sample: usize },
    #[error("sample {sample}: several values for label {key:?}")]
    RepeatedLabel { sample: usize, key: String },
    #[error("sample {sample}: label {key:?} has both a string and a number")]
    LabelWithBoth { sample: usize, key: String },
    #[error(
        "label {key:?} has both strings and numbers as values, the first such time in sample {sample}"
    )]
    MixedLabel { sample: usize, key: String },
    #[error("sample {sample}: label {key:?} starts with the reserved prefix pprof::")]
    ReservedLabel { sample: usize, key: String },
    #[error("sample {sample}: numeric label {key:?} has no unit")]
    LabelWithoutUnit { sample: usize, key: String },

    // The header.
    #[error("time_nanos is {value}, which is not positive")]
    NoTime { value: i64 },
    #[error("duration_nanos is {value}, which is negative")]
    NegativeDuration { value: i64 },
    #[error("period_type is missing or incomplete")]
    NoPeriodType,
    #[error("period is {value}, which is not positive")]
    NoPeriod { value: i64 },
    #[error("comment {text:?} is empty or starts with #, so readers hide it")]
    HiddenComment { text: String },
    #[error("doc_url {url:?} is not absolute")]
    RelativeDocUrl { url: String },
    #[error("default_sample_type {name:?} is not one of the sample types")]
    UnknownDefaultType { name: String },
    #[error("no known kind of profile has sample types {types} and period type {period}")]
    UnknownKind { types: String, period: String },

    // The list itself.
    #[error("and {count} more violations")]
    More { count: usize },
}

/// Further violations are counted, not listed.
const MAX_LISTED: usize = 100;

/// The violations so far.
#[derive(Default)]
pub(super) struct Violations {
    listed: Vec<Violation>,
    more: usize,
}

impl Violations {
    pub(super) fn add(&mut self, violation: Violation) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(violation);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn add_if(&mut self, is_violated: bool, violation: impl FnOnce() -> Violation) {
        if is_violated {
            self.add(violation());
        }
    }

    pub(super) fn finish(mut self) -> Result<(), Vec<Violation>> {
        if self.listed.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.listed.push(Violation::More { count: self.more });
        }
        Err(self.listed)
    }
}

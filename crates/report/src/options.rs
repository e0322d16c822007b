//! Defines the options of reports.

use std::path::PathBuf;

/// The forms of reports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Form {
    /// The heaviest entries.
    #[default]
    Top,
    /// Each entry with its callers and callees.
    Tree,
    /// As [`Tree`](Form::Tree), but only entries whose name matches this expression.
    Peek(String),
    /// The source of functions whose name matches this expression, with the weight of each line.
    List(String),
    /// Every sample.
    Traces,
    /// The labels, with the weight of each value.
    Tags,
    /// The profile's comments.
    Comments,
    /// The whole profile as text.
    Raw,
    /// One line per stack: frames from the root, separated by semicolons, and the value.
    Collapsed,
}

impl Form {
    /// Whether entries and edges of low weight are dropped.
    pub(crate) const fn trims(&self) -> bool {
        matches!(self, Self::Top | Self::Tree)
    }

    /// The default number of entries; 0 for all.
    pub(crate) const fn default_count(&self) -> usize {
        match self {
            Self::Tree => 80,
            _ => 0,
        }
    }
}

/// What an entry of a report stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Granularity {
    /// A function name, in any file.
    #[default]
    Functions,
    /// A function in a source file.
    FileFunctions,
    /// A source file.
    Files,
    /// A source line.
    Lines,
    /// A code address.
    Addresses,
}

/// Regular expressions, in the syntax of Go, over the names of functions, source files and
/// binaries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters {
    /// Keep samples with a matching frame.
    pub focus: Option<String>,
    /// Drop samples with a matching frame.
    pub ignore: Option<String>,
    /// Drop matching frames.
    pub hide: Option<String>,
    /// Keep matching frames.
    pub show: Option<String>,
    /// Keep the outermost matching frame of each stack and its callees.
    pub show_from: Option<String>,
    /// Keep the innermost matching frame of each stack and its callers.
    pub prune_from: Option<String>,
    /// Keep samples with a matching label: `regexp`, `key=regexp`, or a range of numbers such as
    /// `1kb:64kb`, `bytes=:4mb`.
    pub tag_focus: Option<String>,
    /// Drop samples with a matching label, in the same syntax.
    pub tag_ignore: Option<String>,
    /// Keep labels whose key matches.
    pub tag_show: Option<String>,
    /// Drop labels whose key matches.
    pub tag_hide: Option<String>,
}

/// The options of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The form of the report.
    pub form: Form,
    /// The sample type, by name or index. Default: the profile's default type.
    pub sample_index: Option<String>,
    /// Sort by cumulative weight instead of flat weight.
    pub cum: bool,
    /// Filters on samples, frames and labels.
    pub filters: Filters,
    /// The maximum number of entries; 0 for all.
    pub node_count: Option<usize>,
    /// Top and tree drop entries below this fraction of the total.
    pub node_fraction: f64,
    /// Top and tree drop calls below this fraction of the total.
    pub edge_fraction: f64,
    /// Whether to drop entries and calls of low weight.
    pub trim: bool,
    /// Take percentages of the filtered profile instead of the whole one.
    pub relative: bool,
    /// Divide all values by this, such as the number of runs.
    pub divide_by: f64,
    /// Attribute inlined calls to the function that they were inlined into.
    pub no_inlines: bool,
    /// Drop entries with a negative weight, which differences have, from top, tree and list.
    pub drop_negative: bool,
    /// Where entries are lines, distinguish columns too.
    pub columns: bool,
    /// The unit of values: `ms`, `MB`, `auto`. Default: the unit that fits the smallest value.
    pub unit: Option<String>,
    /// What an entry stands for.
    pub granularity: Granularity,
    /// Omit the header about the profile.
    pub compact: bool,
    /// The directory of relative source paths, for [`Form::List`].
    pub source_path: PathBuf,
    /// Directories to strip from source paths, separated by `:`.
    pub trim_path: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            form: Form::Top,
            sample_index: None,
            cum: false,
            filters: Filters::default(),
            node_count: None,
            node_fraction: 0.005,
            edge_fraction: 0.001,
            trim: true,
            relative: false,
            divide_by: 1.0,
            no_inlines: false,
            drop_negative: false,
            columns: false,
            unit: None,
            granularity: Granularity::default(),
            compact: false,
            source_path: PathBuf::new(),
            trim_path: String::new(),
        }
    }
}

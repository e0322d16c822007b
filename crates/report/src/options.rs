//! What a report shall show.

use std::path::PathBuf;

/// The kinds of reports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Form {
    /// The heaviest entries.
    #[default]
    Top,
    /// Each entry with its callers and callees.
    Tree,
    /// As [`Tree`](Form::Tree), of entries whose name matches this expression only.
    Peek(String),
    /// The source of functions whose name matches this expression, with the weight of each line.
    List(String),
    /// Every sample.
    Traces,
    /// The labels, with the weight of each value.
    Tags,
    /// What the profile's author wrote into it.
    Comments,
    /// Everything that is in the profile.
    Raw,
    /// One line for a stack: frames from the root, separated by semicolons, and the value.
    Collapsed,
}

impl Form {
    /// Whether entries and edges of low weight are left out.
    pub(crate) const fn trims(&self) -> bool {
        matches!(self, Self::Top | Self::Tree)
    }

    /// How many entries are shown when nothing is said.
    pub(crate) const fn default_count(&self) -> usize {
        match self {
            Self::Tree => 80,
            _ => 0,
        }
    }
}

/// What makes an entry of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Granularity {
    /// A function, wherever it is defined.
    #[default]
    Functions,
    /// A function of a source file.
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
    /// Only samples through a match.
    pub focus: Option<String>,
    /// No samples through a match.
    pub ignore: Option<String>,
    /// No matching frames.
    pub hide: Option<String>,
    /// Only matching frames.
    pub show: Option<String>,
    /// Of each stack, only what the outermost matching frame called, and that frame.
    pub show_from: Option<String>,
    /// Of each stack, only the callers of the innermost matching frame, and that frame.
    pub prune_from: Option<String>,
    /// Only samples with a label that matches: `regexp`, `key=regexp`, or a range of numbers
    /// such as `1kb:64kb`, `bytes=:4mb`.
    pub tag_focus: Option<String>,
    /// No samples with a label that matches, in the same syntax.
    pub tag_ignore: Option<String>,
    /// Only labels whose key matches.
    pub tag_show: Option<String>,
    /// No labels whose key matches.
    pub tag_hide: Option<String>,
}

/// What a report shall show.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The kind of report.
    pub form: Form,
    /// The sample type, by name or position; the profile's default when not given.
    pub sample_index: Option<String>,
    /// Sort by what was spent in an entry and its callees, not in itself.
    pub cum: bool,
    /// What is left out.
    pub filters: Filters,
    /// How many entries to show; 0 for all.
    pub node_count: Option<usize>,
    /// Entries below this part of the total are left out of top and tree.
    pub node_fraction: f64,
    /// Calls below this part of the total are left out of top and tree.
    pub edge_fraction: f64,
    /// Leave light entries and calls out at all.
    pub trim: bool,
    /// Percentages of what the filters leave, not of the whole profile.
    pub relative: bool,
    /// Values are divided by this, such as a number of runs.
    pub divide_by: f64,
    /// Inlined calls count for the function that they were inlined into.
    pub no_inlines: bool,
    /// Entries with a negative weight, which differences have, are left out of top, tree and list.
    pub drop_negative: bool,
    /// Columns tell entries apart, too, where lines do.
    pub columns: bool,
    /// The unit to show values in: `ms`, `MB`, `auto`; the one that suits the smallest when not
    /// given.
    pub unit: Option<String>,
    /// What makes an entry.
    pub granularity: Granularity,
    /// Leave out what the profile says about itself.
    pub compact: bool,
    /// Where relative source paths begin, for [`Form::List`].
    pub source_path: PathBuf,
    /// Folders, separated by `:`, that source paths lose when they begin with one.
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

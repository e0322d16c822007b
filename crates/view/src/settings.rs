//! The options of the shell: one row of a table for each, with the names of `go tool pprof`.

use std::path::PathBuf;

use report::{Filters, Form, Granularity, Options};

/// The values of all options.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where reports go; empty for standard output.
    pub output: String,
    /// How many entries; -1 for what suits the report.
    pub node_count: i64,
    /// Regular expressions that each sample must or must not meet, and the like.
    pub filters: Texts,
    sample_index: String,
    sort: String,
    granularity: String,
    unit: String,
    source_path: String,
    trim_path: String,
    node_fraction: f64,
    edge_fraction: f64,
    divide_by: f64,
    trim: bool,
    compact_labels: bool,
    relative_percentages: bool,
    drop_negative: bool,
    noinlines: bool,
    showcolumns: bool,
    /// Those that change nothing in any report that there is here.
    idle: Idle,
}

/// Filters, empty where there is none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Texts {
    /// See [`Filters::focus`].
    pub focus: String,
    /// See [`Filters::ignore`].
    pub ignore: String,
    /// See [`Filters::tag_focus`].
    pub tag_focus: String,
    /// See [`Filters::tag_ignore`].
    pub tag_ignore: String,
    hide: String,
    show: String,
    show_from: String,
    prune_from: String,
    tag_show: String,
    tag_hide: String,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Idle {
    call_tree: bool,
    intel_syntax: bool,
    normalize: bool,
    mean: bool,
    tag_root: String,
    tag_leaf: String,
}

impl Default for Settings {
    fn default() -> Self {
        let Options { node_fraction, edge_fraction, .. } = Options::default();
        Self {
            output: String::new(),
            node_count: -1,
            filters: Texts::default(),
            sample_index: String::new(),
            sort: "flat".to_owned(),
            granularity: String::new(),
            unit: "minimum".to_owned(),
            source_path: String::new(),
            trim_path: String::new(),
            node_fraction,
            edge_fraction,
            divide_by: 1.0,
            trim: true,
            // A shell says once what the profile is.
            compact_labels: true,
            relative_percentages: false,
            drop_negative: false,
            noinlines: false,
            showcolumns: false,
            idle: Idle::default(),
        }
    }
}

/// An option.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    field: Field,
}

/// Where an option's value is, and what it may be.
#[derive(Clone, Copy)]
enum Field {
    Switch(fn(&mut Settings) -> &mut bool),
    Text(fn(&mut Settings) -> &mut String),
    Count(fn(&mut Settings) -> &mut i64),
    Number(fn(&mut Settings) -> &mut f64),
    Choice(fn(&mut Settings) -> &mut String, &'static [Choice]),
    /// Known to pprof; only its default can be had here.
    Fixed(Fixed),
}

#[derive(Clone, Copy)]
enum Fixed {
    Off(fn(&mut Settings) -> &mut bool),
    Empty(fn(&mut Settings) -> &mut String),
}

/// A value of an option with few, which is a name of its own: `cum`, `lines`.
pub struct Choice {
    /// The value.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

const fn choice(name: &'static str, about: &'static str) -> Choice {
    Choice { name, about }
}

const SORT: &[Choice] = &[
    choice("cum", "Sort entries by what they and their callees used"),
    choice("flat", "Sort entries by what they used themselves"),
];

const GRANULARITY: &[Choice] = &[
    choice("functions", "Entries are functions"),
    choice("filefunctions", "Entries are functions, told apart by their files"),
    choice("files", "Entries are source files"),
    choice("lines", "Entries are source lines"),
    choice("addresses", "Entries are code addresses"),
];

const fn setting(name: &'static str, field: Field, about: &'static str) -> Setting {
    Setting { name, about, field }
}

use Field::{Choice as OneOf, Count, Fixed as Only, Number, Switch, Text};

/// All options.
pub static SETTINGS: &[Setting] = &[
    setting("output", Text(|s| &mut s.output), "File to write reports to, instead of the terminal"),
    setting("drop_negative", Switch(|s| &mut s.drop_negative), "Leave out what has become less"),
    setting("call_tree", Switch(|s| &mut s.idle.call_tree), "For graphs only: there are none here"),
    setting(
        "relative_percentages",
        Switch(|s| &mut s.relative_percentages),
        "Percentages of what the filters leave, not of the whole profile",
    ),
    setting("unit", Text(|s| &mut s.unit), "Unit of values: ms, MB, …; `auto` for each its own"),
    setting("compact_labels", Switch(|s| &mut s.compact_labels), "Reports without a header"),
    setting("source_path", Text(|s| &mut s.source_path), "Folder in which source files are"),
    setting("trim_path", Text(|s| &mut s.trim_path), "What source paths lose at their begin"),
    setting(
        "intel_syntax",
        Switch(|s| &mut s.idle.intel_syntax),
        "For assembly only: there is none here",
    ),
    setting("nodecount", Count(|s| &mut s.node_count), "How many entries to show; 0 for all"),
    setting(
        "nodefraction",
        Number(|s| &mut s.node_fraction),
        "Leave out entries below this part of the total",
    ),
    setting(
        "edgefraction",
        Number(|s| &mut s.edge_fraction),
        "Leave out calls below this part of the total",
    ),
    setting("trim", Switch(|s| &mut s.trim), "Honour nodefraction, edgefraction and nodecount"),
    setting("focus", Text(|s| &mut s.filters.focus), "Only samples through a frame that matches"),
    setting("ignore", Text(|s| &mut s.filters.ignore), "No samples through a frame that matches"),
    setting(
        "prune_from",
        Text(|s| &mut s.filters.prune_from),
        "No callees of the innermost frame that matches",
    ),
    setting("hide", Text(|s| &mut s.filters.hide), "No frames that match"),
    setting("show", Text(|s| &mut s.filters.show), "Only frames that match"),
    setting(
        "show_from",
        Text(|s| &mut s.filters.show_from),
        "No callers of the outermost frame that matches",
    ),
    setting("tagroot", Only(Fixed::Empty(|s| &mut s.idle.tag_root)), "Not supported here"),
    setting("tagleaf", Only(Fixed::Empty(|s| &mut s.idle.tag_leaf)), "Not supported here"),
    setting(
        "tagfocus",
        Text(|s| &mut s.filters.tag_focus),
        "Only samples with a label that matches: RE, key=RE, 1kb:64kb",
    ),
    setting(
        "tagignore",
        Text(|s| &mut s.filters.tag_ignore),
        "No samples with a label that matches: RE, key=RE, 1kb:64kb",
    ),
    setting("tagshow", Text(|s| &mut s.filters.tag_show), "Only labels whose key matches"),
    setting("taghide", Text(|s| &mut s.filters.tag_hide), "No labels whose key matches"),
    setting("divide_by", Number(|s| &mut s.divide_by), "Divide all values by this"),
    setting("mean", Only(Fixed::Off(|s| &mut s.idle.mean)), "Not supported here"),
    setting("sample_index", Text(|s| &mut s.sample_index), "Sample type: name, or position from 0"),
    setting("normalize", Switch(|s| &mut s.idle.normalize), "For the command line of pprof only"),
    setting("sort", OneOf(|s| &mut s.sort, SORT), "The order of entries"),
    setting("granularity", OneOf(|s| &mut s.granularity, GRANULARITY), "What makes an entry"),
    setting("noinlines", Switch(|s| &mut s.noinlines), "Inlined calls count for their caller"),
    setting("showcolumns", Switch(|s| &mut s.showcolumns), "Columns beside line numbers"),
];

/// The option of that name, or that has a choice of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name || s.choices().iter().any(|c| c.name == name))
}

impl Setting {
    /// The values that it may have, if they are few.
    pub fn choices(&self) -> &'static [Choice] {
        match self.field {
            OneOf(_, choices) => choices,
            _ => &[],
        }
    }

    /// Whether it can be set by its name (or that of a choice) alone.
    pub fn is_switch(&self, name: &str) -> bool {
        name != self.name || matches!(self.field, Switch(_) | Only(Fixed::Off(_)))
    }

    /// Its value as text.
    pub fn value(&self, settings: &Settings) -> String {
        let mut settings = settings.clone();
        match self.field {
            Switch(at) | Only(Fixed::Off(at)) => at(&mut settings).to_string(),
            Text(at) | OneOf(at, _) | Only(Fixed::Empty(at)) => at(&mut settings).clone(),
            Count(at) => at(&mut settings).to_string(),
            Number(at) => at(&mut settings).to_string(),
        }
    }

    /// Sets it, under its own name or that of a choice.
    pub fn set(&self, settings: &mut Settings, name: &str, value: &str) -> Result<(), String> {
        let invalid = |what: &str| Err(format!("{value:?} is no {what} for {name}"));
        match self.field {
            OneOf(at, _) if name != self.name => match flag(value) {
                Some(true) => at(settings).replace_range(.., name),
                _ => return Err(format!("{name} cannot be unset: choose another {}", self.name)),
            },
            OneOf(at, choices) => match choices.iter().find(|c| c.name == value) {
                Some(choice) => at(settings).replace_range(.., choice.name),
                None => return invalid("choice"),
            },
            Switch(at) => match flag(value) {
                Some(value) => *at(settings) = value,
                None => return invalid("yes or no"),
            },
            Only(fixed) => {
                let is_default = match fixed {
                    Fixed::Off(_) => flag(value) == Some(false),
                    Fixed::Empty(_) => value.is_empty(),
                };
                if !is_default {
                    return Err(format!("{name} is not supported here"));
                }
            }
            Text(at) => at(settings).replace_range(.., value),
            Count(at) => match value.parse() {
                Ok(count) => *at(settings) = count,
                Err(_) => return invalid("whole number"),
            },
            Number(at) => match value.parse::<f64>() {
                Ok(number) if number.is_finite() => *at(settings) = number,
                _ => return invalid("number"),
            },
        }
        Ok(())
    }
}

/// Yes, no, or neither; nothing said is yes.
fn flag(value: &str) -> Option<bool> {
    match &*value.to_lowercase() {
        "true" | "t" | "yes" | "y" | "1" | "" => Some(true),
        "false" | "f" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

impl Settings {
    /// Sorts by what entries and their callees used.
    pub fn sort_by_cum(&mut self) {
        "cum".clone_into(&mut self.sort);
    }

    /// The options of a report.
    pub fn options(&self, form: Form) -> Result<Options, String> {
        if self.divide_by == 0.0 {
            return Err("divide_by is 0".to_owned());
        }
        let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        let f = &self.filters;
        let filters = Filters {
            focus: text(&f.focus),
            ignore: text(&f.ignore),
            hide: text(&f.hide),
            show: text(&f.show),
            show_from: text(&f.show_from),
            prune_from: text(&f.prune_from),
            tag_focus: text(&f.tag_focus),
            tag_ignore: text(&f.tag_ignore),
            tag_show: text(&f.tag_show),
            tag_hide: text(&f.tag_hide),
        };
        let node_count = match self.node_count {
            -1 => None,
            n => Some(usize::try_from(n).unwrap_or(0)),
        };
        let source_path = match &*self.source_path {
            "" => std::env::current_dir().unwrap_or_default(),
            path => PathBuf::from(path),
        };
        Ok(Options {
            form,
            sample_index: text(&self.sample_index),
            cum: self.sort == "cum",
            filters,
            node_count,
            node_fraction: self.node_fraction,
            edge_fraction: self.edge_fraction,
            trim: self.trim,
            relative: self.relative_percentages,
            divide_by: self.divide_by,
            no_inlines: self.noinlines,
            drop_negative: self.drop_negative,
            columns: self.showcolumns,
            unit: text(&self.unit),
            granularity: self.granularity(),
            compact: self.compact_labels,
            source_path,
            trim_path: self.trim_path.clone(),
        })
    }

    fn granularity(&self) -> Granularity {
        match &*self.granularity {
            "filefunctions" => Granularity::FileFunctions,
            "files" => Granularity::Files,
            "lines" => Granularity::Lines,
            "addresses" => Granularity::Addresses,
            _ => Granularity::Functions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_takes_its_own_value() {
        for setting in SETTINGS {
            let mut settings = Settings::default();
            let value = setting.value(&settings);
            if !value.is_empty() || setting.choices().is_empty() {
                setting.set(&mut settings, setting.name, &value).unwrap();
            }
            assert_eq!(settings, Settings::default(), "{}", setting.name);
            assert!(!setting.about.is_empty() && find(setting.name).is_some());
        }
    }

    #[test]
    fn values_are_checked() {
        let mut settings = Settings::default();
        let mut set = |name: &str, value: &str| find(name).unwrap().set(&mut settings, name, value);
        for (name, value) in [
            ("trim", "maybe"),
            ("nodecount", "many"),
            ("nodefraction", "NaN"),
            ("granularity", "bytes"),
            ("lines", "no"),
            ("mean", "1"),
            ("tagroot", "pid"),
        ] {
            let error = set(name, value).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        set("trim", "").unwrap();
        set("trim", "F").unwrap();
        set("lines", "").unwrap();
        set("mean", "0").unwrap();
        assert_eq!(settings.granularity, "lines");
        assert!(!settings.trim);
    }
}

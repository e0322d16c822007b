//! Defines the shell's options in one table, with the names of `go tool pprof`.

use std::path::PathBuf;

use report::{Filters, Form, Granularity, Options};

/// The values of all options.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The file for reports; empty for standard output.
    pub output: String,
    /// Maximum number of entries; -1 for the report's default.
    pub node_count: i64,
    /// Filters for samples, frames and labels.
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
    /// Options that do not affect any of our reports.
    idle: Idle,
}

/// Filters; empty means no filter.
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
            // The shell prints the header once, at the start.
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

/// Where an option's value is stored, and its type.
#[derive(Clone, Copy)]
enum Field {
    Switch(fn(&mut Settings) -> &mut bool),
    Text(fn(&mut Settings) -> &mut String),
    Count(fn(&mut Settings) -> &mut i64),
    Number(fn(&mut Settings) -> &mut f64),
    Choice(fn(&mut Settings) -> &mut String, &'static [Choice]),
    /// An option of pprof of which only the default is supported here.
    Fixed(Fixed),
}

#[derive(Clone, Copy)]
enum Fixed {
    Off(fn(&mut Settings) -> &mut bool),
    Empty(fn(&mut Settings) -> &mut String),
}

/// A value that can be set by its name alone: `cum`, `lines`.
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
    choice("cum", "Sort by cumulative values (with callees)"),
    choice("flat", "Sort by flat values (without callees)"),
];

const GRANULARITY: &[Choice] = &[
    choice("functions", "Group by function"),
    choice("filefunctions", "Group by function and source file"),
    choice("files", "Group by source file"),
    choice("lines", "Group by source line"),
    choice("addresses", "Group by code address"),
];

const fn setting(name: &'static str, field: Field, about: &'static str) -> Setting {
    Setting { name, about, field }
}

use Field::{Choice as OneOf, Count, Fixed as Only, Number, Switch, Text};

/// All options.
pub static SETTINGS: &[Setting] = &[
    setting(
        "output",
        Text(|s| &mut s.output),
        "Write reports to this file instead of the terminal",
    ),
    setting("drop_negative", Switch(|s| &mut s.drop_negative), "Drop negative differences"),
    setting("call_tree", Switch(|s| &mut s.idle.call_tree), "Not supported here (graphs only)"),
    setting(
        "relative_percentages",
        Switch(|s| &mut s.relative_percentages),
        "Compute percentages of the filtered profile, not the whole",
    ),
    setting("unit", Text(|s| &mut s.unit), "Print values in this unit: ms, MB, …, or auto"),
    setting("compact_labels", Switch(|s| &mut s.compact_labels), "Omit the header of reports"),
    setting("source_path", Text(|s| &mut s.source_path), "Search source files in this directory"),
    setting("trim_path", Text(|s| &mut s.trim_path), "Prefix to strip from source paths"),
    setting(
        "intel_syntax",
        Switch(|s| &mut s.idle.intel_syntax),
        "Not supported here (assembly only)",
    ),
    setting(
        "nodecount",
        Count(|s| &mut s.node_count),
        "Show at most this many entries; 0 shows all",
    ),
    setting(
        "nodefraction",
        Number(|s| &mut s.node_fraction),
        "Drop entries below this fraction of the total",
    ),
    setting(
        "edgefraction",
        Number(|s| &mut s.edge_fraction),
        "Drop calls below this fraction of the total",
    ),
    setting("trim", Switch(|s| &mut s.trim), "Apply nodefraction, edgefraction and nodecount"),
    setting("focus", Text(|s| &mut s.filters.focus), "Keep only samples with a matching frame"),
    setting("ignore", Text(|s| &mut s.filters.ignore), "Drop samples with a matching frame"),
    setting(
        "prune_from",
        Text(|s| &mut s.filters.prune_from),
        "Drop the callees of the innermost matching frame",
    ),
    setting("hide", Text(|s| &mut s.filters.hide), "Drop matching frames"),
    setting("show", Text(|s| &mut s.filters.show), "Keep only matching frames"),
    setting(
        "show_from",
        Text(|s| &mut s.filters.show_from),
        "Drop the callers of the outermost matching frame",
    ),
    setting("tagroot", Only(Fixed::Empty(|s| &mut s.idle.tag_root)), "Not supported here"),
    setting("tagleaf", Only(Fixed::Empty(|s| &mut s.idle.tag_leaf)), "Not supported here"),
    setting(
        "tagfocus",
        Text(|s| &mut s.filters.tag_focus),
        "Keep only samples with a matching label: RE, key=RE, 1kb:64kb",
    ),
    setting(
        "tagignore",
        Text(|s| &mut s.filters.tag_ignore),
        "Drop samples with a matching label: RE, key=RE, 1kb:64kb",
    ),
    setting("tagshow", Text(|s| &mut s.filters.tag_show), "Keep only labels with a matching key"),
    setting("taghide", Text(|s| &mut s.filters.tag_hide), "Drop labels with a matching key"),
    setting("divide_by", Number(|s| &mut s.divide_by), "Divide all values by this"),
    setting("mean", Only(Fixed::Off(|s| &mut s.idle.mean)), "Not supported here"),
    setting(
        "sample_index",
        Text(|s| &mut s.sample_index),
        "Report this sample type: name, or position from 0",
    ),
    setting(
        "normalize",
        Switch(|s| &mut s.idle.normalize),
        "Not supported here (pprof's command line only)",
    ),
    setting("sort", OneOf(|s| &mut s.sort, SORT), "Sort entries: flat or cum"),
    setting("granularity", OneOf(|s| &mut s.granularity, GRANULARITY), "Group samples by this"),
    setting("noinlines", Switch(|s| &mut s.noinlines), "Attribute inlined calls to their caller"),
    setting("showcolumns", Switch(|s| &mut s.showcolumns), "Print columns with line numbers"),
];

/// Finds the option of this name, or with a choice of this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name || s.choices().iter().any(|c| c.name == name))
}

impl Setting {
    /// Its possible values, if they are a fixed set.
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
        let invalid = |what: &str| Err(format!("invalid value {value:?} for {name}: not a {what}"));
        match self.field {
            OneOf(at, _) if name != self.name => match flag(value) {
                Some(true) => at(settings).replace_range(.., name),
                _ => return Err(format!("cannot unset {name}; choose another {}", self.name)),
            },
            OneOf(at, choices) => match choices.iter().find(|c| c.name == value) {
                Some(choice) => at(settings).replace_range(.., choice.name),
                None => return invalid("choice"),
            },
            Switch(at) => match flag(value) {
                Some(value) => *at(settings) = value,
                None => return invalid("boolean"),
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

/// Parses a boolean; an empty text is true.
fn flag(value: &str) -> Option<bool> {
    match &*value.to_lowercase() {
        "true" | "t" | "yes" | "y" | "1" | "" => Some(true),
        "false" | "f" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

impl Settings {
    /// Sorts by cumulative values.
    pub fn sort_by_cum(&mut self) {
        "cum".clone_into(&mut self.sort);
    }

    /// The options of a report.
    pub fn options(&self, form: Form) -> Result<Options, String> {
        if self.divide_by == 0.0 {
            return Err("divide_by must not be 0".to_owned());
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

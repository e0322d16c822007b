//! Identifies and names entries.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use pprof::{Line, Location, Profile};

use crate::{Granularity, go};

/// The properties that distinguish entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detail {
    function: bool,
    file: bool,
    line: bool,
    column: bool,
    address: bool,
    /// The binary, also of functions with names.
    binary: bool,
    /// Keep the prefixes that build systems put before source paths.
    long_paths: bool,
}

impl Detail {
    pub(crate) const fn of(granularity: Granularity, columns: bool) -> Self {
        let address = matches!(granularity, Granularity::Addresses);
        let line = address || matches!(granularity, Granularity::Lines);
        let function = !matches!(granularity, Granularity::Files);
        let file = line || !function || matches!(granularity, Granularity::FileFunctions);
        let column = address || (line && columns);
        Self { function, file, line, column, address, binary: false, long_paths: false }
    }

    /// The same with full source paths.
    pub(crate) const fn with_long_paths(self) -> Self {
        Self { long_paths: true, ..self }
    }

    /// The same without columns.
    pub(crate) const fn without_columns(self) -> Self {
        Self { column: false, ..self }
    }

    /// The properties for annotated source.
    pub(crate) const fn of_source(columns: bool) -> Self {
        Self { binary: true, ..Self::of(Granularity::Lines, columns) }
    }
}

/// The properties of an entry. Those outside of the [`Detail`] are empty or 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct NodeInfo {
    pub(crate) name: Arc<str>,
    pub(crate) address: u64,
    pub(crate) file: Arc<str>,
    pub(crate) start_line: i64,
    pub(crate) line: i64,
    column: i64,
    binary: Arc<str>,
}

impl NodeInfo {
    /// The name in reports, on one line.
    pub(crate) fn printable(&self) -> String {
        let text = self.described();
        match printable::line(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(escaped) => escaped,
        }
    }

    fn described(&self) -> String {
        let mut out = String::with_capacity(self.name.len());
        if self.address != 0 {
            let _ = write!(out, "{:016x} ", self.address);
        }
        if !self.name.is_empty() {
            out.push_str(&self.name);
            out.push(' ');
        }
        if self.line != 0 {
            let _ = write!(out, "{}:{}", self.file, self.line);
            if self.column != 0 {
                let _ = write!(out, ":{}", self.column);
            }
        } else if !self.file.is_empty() {
            out.push_str(&self.file);
        } else if !self.name.is_empty() {
            out.pop();
        } else if !self.binary.is_empty() {
            let _ = write!(out, "[{}]", go::base(&self.binary));
        } else {
            out.push_str("<unknown>");
        }
        out
    }

    /// All properties as text, the last criterion for sorting.
    pub(crate) fn sort_key(&self) -> String {
        format!(
            "{{{}  {} {} {} {} {} {}}}",
            self.name,
            self.address,
            self.file,
            self.start_line,
            self.line,
            self.column,
            self.binary
        )
    }
}

/// Maps lines to entries.
pub(super) struct Namer<'p> {
    profile: &'p Profile,
    detail: Detail,
    /// The cleaned source path of each function.
    files: Vec<Arc<str>>,
    empty: Arc<str>,
}

impl<'p> Namer<'p> {
    pub(super) fn new(profile: &'p Profile, detail: Detail, trim_path: &str) -> Self {
        let empty: Arc<str> = "".into();
        let files = profile.functions.iter().map(|f| {
            match (detail.file, cleaned(&f.filename, trim_path, detail.long_paths)) {
                (false, _) => Arc::clone(&empty),
                (true, None) => Arc::clone(&f.filename),
                (true, Some(file)) => file.into(),
            }
        });
        Self { profile, detail, files: files.collect(), empty }
    }

    pub(super) fn info(&self, location: &Location, line: &Line) -> NodeInfo {
        let detail = self.detail;
        let mapping = location.mapping.and_then(|m| self.profile.mappings.get(m.index()));
        let binary = mapping.map_or(&self.empty, |m| &m.file);
        let address = if detail.address { location.address } else { 0 };
        let function =
            line.function.and_then(|f| Some((f, self.profile.functions.get(f.index())?)));
        let Some((at, function)) = function else {
            return NodeInfo { address, binary: Arc::clone(binary), ..NodeInfo::default() };
        };
        let name = if detail.function { &function.name } else { &self.empty };
        let with_binary = detail.binary || name.is_empty();
        NodeInfo {
            name: Arc::clone(name),
            address,
            file: Arc::clone(&self.files[at.index()]),
            start_line: if with_binary { function.start_line } else { 0 },
            line: if detail.line { line.line } else { 0 },
            column: if detail.column { line.column } else { 0 },
            binary: Arc::clone(if with_binary { binary } else { &self.empty }),
        }
    }
}

/// Whether the mapping with this file holds kernel code.
pub(crate) fn is_kernel(file: &str) -> bool {
    file.starts_with("[kernel") || file == "[bpf]"
}

/// The shortest form of a source path. `None` if it does not change.
fn cleaned(path: &str, trim_path: &str, long: bool) -> Option<String> {
    let short = if long { path } else { trimmed(path, trim_path) };
    let clean = if short.is_empty() { "".into() } else { go::clean(short) };
    (clean != path).then(|| clean.into_owned())
}

/// A source path without the first of these directories that it starts with.
pub(crate) fn trimmed<'p>(path: &'p str, trim_path: &str) -> &'p str {
    let given = trim_path.split(':').filter(|folder| !folder.is_empty());
    given
        .chain(["/proc/self/cwd/./", "/proc/self/cwd/"])
        .find_map(|folder| path.strip_prefix(folder.trim_end_matches('/'))?.strip_prefix('/'))
        .unwrap_or(path)
}
